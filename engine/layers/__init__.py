"""Linear, norm, rotary embedding, attention: precision is a property of a layer."""
