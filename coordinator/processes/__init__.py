"""Workers as processes: started, listened to, ended."""
