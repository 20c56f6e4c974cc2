"""OpenAI's responses API, on top of chat: items in, items and their events out."""
