-- What has not been seen for so long. A live volume is seen, and kept, at every start and when it goes.
DELETE FROM memories WHERE (kind, name) IN (
    SELECT kind, name FROM memories WHERE at < :before ORDER BY at LIMIT :limit
);
