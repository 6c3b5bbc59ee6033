-- The latest transitions of one finding, newest first.
SELECT at, before, reason, document FROM transitions
WHERE fingerprint = :fingerprint AND at >= :since
ORDER BY at DESC, id DESC LIMIT :limit;
