"""Compare agents on the kernel with the same agents run natively: answers, speed, fairness."""
