"""GPUs and cores: what there is, and which worker gets which."""
