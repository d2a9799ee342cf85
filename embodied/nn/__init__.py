"""Neural building blocks: vision, language, attention, memory fusion, action heads."""
