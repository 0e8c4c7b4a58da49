"""Stories that are both a test (tests/journeys) and something to read: `make demo STORY=name`."""
