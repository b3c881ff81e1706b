"""What a run leaves: result.json, steps.jsonl, the STEP4 logs; read back and compared."""
