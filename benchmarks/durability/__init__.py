"""Is what was acknowledged there after `kill -9`? `python -m benchmarks.durability` asks again and again."""
