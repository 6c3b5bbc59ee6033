-- The latest transitions of all findings, newest first.
SELECT at, before, reason, document FROM transitions
WHERE at >= :since
ORDER BY at DESC, id DESC LIMIT :limit;
