"""A whole column of titles to vectors: resumable, exact, and on a cluster where one machine is not enough."""
