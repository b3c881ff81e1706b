"""The languages that people are spoken to in: English as the code says it, others by a catalogue a folder.

`translation.say` puts one English text into the chosen language. What programs read (result.json, exit codes, names)
stays English.
"""
