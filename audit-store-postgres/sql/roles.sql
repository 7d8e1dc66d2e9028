-- Roles for one log, and what they may do (docs/postgres-layout.md). For psql, as somebody who may make roles:
--
--   psql -v schema=audit_trail -v owner=audit_owner -v writer=audit_writer -v eraser=audit_eraser -v reader=audit_reader \
--     -f roles.sql postgres://…
--
-- Once before `audit-trail migrate up`, which makes the roles and the schema, and once after it, which gives the rights on
-- the tables. Doing it again changes nothing. None of the roles can log in: GRANT audit_writer TO the service's user.
\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

SELECT format('CREATE ROLE %I NOLOGIN', name)
FROM unnest(ARRAY[:'owner', :'writer', :'eraser', :'reader']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

SELECT format('CREATE SCHEMA %I', :'schema') WHERE to_regnamespace(quote_ident(:'schema')) IS NULL \gexec
ALTER SCHEMA :"schema" OWNER TO :"owner";
REVOKE ALL ON SCHEMA :"schema" FROM PUBLIC;
GRANT USAGE ON SCHEMA :"schema" TO :"writer", :"eraser", :"reader";

SELECT to_regclass(quote_ident(:'schema') || '.head') IS NOT NULL AS migrated \gset
\if :migrated
  SELECT format('ALTER TABLE %I.%I OWNER TO %I', schemaname, tablename, :'owner')
  FROM pg_tables WHERE schemaname = :'schema' AND tableowner <> :'owner' \gexec
  ALTER FUNCTION :"schema".refuse_change() OWNER TO :"owner";
  REVOKE ALL ON ALL TABLES IN SCHEMA :"schema" FROM PUBLIC, :"writer", :"eraser", :"reader";
  REVOKE ALL ON ALL FUNCTIONS IN SCHEMA :"schema" FROM PUBLIC;
  GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO :"writer", :"eraser", :"reader";
  SET LOCAL search_path = :"schema", pg_catalog;
  GRANT INSERT ON meta, entry, content, token, tile, checkpoint, data_key TO :"writer", :"eraser";
  GRANT UPDATE (size, last) ON head TO :"writer", :"eraser";
  GRANT DELETE ON content, token, data_key TO :"eraser";
  GRANT UPDATE ON data_key TO :"eraser";
\endif
COMMIT;
