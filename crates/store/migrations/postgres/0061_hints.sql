-- Whoever listens looks a little earlier than it would by itself. The channel is of this schema: two installations in one
-- database do not wake each other. It is a hint and nothing more: the version rows are the truth.

CREATE FUNCTION tidegate_hint() RETURNS trigger LANGUAGE plpgsql AS $hint$
BEGIN
    PERFORM pg_notify('tidegate_' || md5(TG_TABLE_SCHEMA), '');
    RETURN NULL;
END
$hint$;

CREATE TRIGGER tidegate_hint AFTER UPDATE ON installation FOR EACH STATEMENT EXECUTE FUNCTION tidegate_hint();
CREATE TRIGGER tidegate_hint AFTER INSERT OR UPDATE OF version ON organizations
    FOR EACH STATEMENT EXECUTE FUNCTION tidegate_hint();
