"""What is wrong with a data set, found as a stream and reported."""
