-- All of them, once, at the start.
SELECT kind, name, cluster, retained FROM memories;
