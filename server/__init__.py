"""HTTP in, token stream out: OpenAI protocol, chat templates, text, metrics. No torch."""
