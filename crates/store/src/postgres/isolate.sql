-- After the migrations: every table with a column `organization` shows and takes only rows of the organization that
-- the transaction is bound to. Tables that have a rule already are left alone, so that this can run at each opening.
DO $isolate$
DECLARE
    found record;
BEGIN
    -- Two controllers that start at once do it one after the other.
    PERFORM pg_advisory_xact_lock(6073458723460014);
    FOR found IN
        SELECT pg_class.relname AS name
        FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
        JOIN pg_attribute ON pg_attribute.attrelid = pg_class.oid
        WHERE pg_namespace.nspname = current_schema()
          AND pg_class.relkind IN ('r', 'p')
          AND pg_attribute.attname = 'organization'
          AND NOT pg_attribute.attisdropped
          AND NOT EXISTS (SELECT 1 FROM pg_policy WHERE pg_policy.polrelid = pg_class.oid)
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', found.name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', found.name);
        EXECUTE format(
            'CREATE POLICY one_organization ON %I USING (organization = current_setting(''tidegate.organization'', true) '
            'OR current_setting(''tidegate.organization'', true) = ''*'')',
            found.name
        );
    END LOOP;
END
$isolate$;
