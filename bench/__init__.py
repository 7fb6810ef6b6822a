"""What the system costs and how fast it answers, against a plain relay, under one load client."""
