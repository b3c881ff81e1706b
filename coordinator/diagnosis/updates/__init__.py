"""What happens between backward and the next step's weights: clipping, the optimizer's rule, averages that a script keeps."""
