DELETE FROM findings WHERE fingerprint IN (
    SELECT fingerprint FROM findings WHERE state = 'resolved' AND changed_at < :before LIMIT :limit
);
