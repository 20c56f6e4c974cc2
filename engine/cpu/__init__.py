"""The engine on the CPU: layers in plain torch, one thread that runs steps in order."""
