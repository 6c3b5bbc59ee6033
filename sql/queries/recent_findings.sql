-- The findings that changed last.
SELECT document FROM findings ORDER BY changed_at DESC LIMIT :limit;
