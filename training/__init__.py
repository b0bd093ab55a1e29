"""Models, inner steps, codecs, aggregation and the outer step, run in a worker process."""
