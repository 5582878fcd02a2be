"""The program that runs in a Job beside the volume: fetch, verify, publish."""
