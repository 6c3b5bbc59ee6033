-- Of a finding that is not resolved, it must be known who was told, however long ago.
DELETE FROM deliveries WHERE seq IN (
    SELECT d.seq FROM deliveries d
    LEFT JOIN findings f ON f.fingerprint = d.fingerprint
    WHERE d.settled_at < :before AND (f.state IS NULL OR f.state = 'resolved')
    LIMIT :limit
);
