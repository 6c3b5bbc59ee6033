-- Whose database this is, and whether there is anything in it.
SELECT (SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_schema);
