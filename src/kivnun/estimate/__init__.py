"""What a training will cost before it is started: tokens, minutes, memory and, at hosted services, money."""
