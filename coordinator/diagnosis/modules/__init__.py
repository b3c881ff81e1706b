"""What one module gives or is given: outputs, masks, dropout's draws."""
