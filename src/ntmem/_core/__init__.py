"""Native building blocks: bytes, numbers and shared memory. Imports nothing of the layers above."""
