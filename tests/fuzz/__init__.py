"""Random programs through the whole pipeline; `run.py` is the script, `test_fuzz.py` its short run."""
