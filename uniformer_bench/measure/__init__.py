"""What a model costs on this device, measured: one question, one file."""
