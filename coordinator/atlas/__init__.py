"""The atlas: which part of one framework's training corresponds to which of the other, each mapping written down once.

Pure data and functions; no framework, no process. `pairings` lists every declared pairing, `translating` applies them,
`measured` says how far both sides were seen to agree; `layers` has the modules of ``torch.nn`` and ``paddle.nn``.
"""
