-- Keeps what was last seen of a volume or snapshot.
INSERT INTO memories (kind, name, cluster, retained, at) VALUES (:kind, :name, :cluster, :retained, :at)
ON CONFLICT (kind, name) DO UPDATE SET cluster = excluded.cluster, retained = excluded.retained, at = excluded.at;
