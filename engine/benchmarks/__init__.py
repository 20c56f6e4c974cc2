"""What the engine reaches on this machine: throughput, latency, scaling, and where time goes."""
