-- The tables of one log (docs/postgres-layout.md). Run with the log's schema first in search_path.

CREATE TABLE migration (
  version integer PRIMARY KEY CHECK (version >= 1),
  name text NOT NULL
);

CREATE TABLE meta (
  name text PRIMARY KEY CHECK (name = 'origin'),
  value text NOT NULL
);

-- One row, which every batch locks and moves on. Updates fit into its page, and no index holds what changes.
CREATE TABLE head (
  one smallint PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  size bigint NOT NULL CHECK (size >= 0),
  last bytea CHECK (length(last) = 16),
  CHECK ((last IS NULL) = (size = 0))
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
INSERT INTO head (size) VALUES (0);

CREATE TABLE entry (
  idx bigint PRIMARY KEY CHECK (idx >= 0),
  event bytea NOT NULL CHECK (length(event) = 16),
  kind text COLLATE "C" NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
  time bigint NOT NULL CHECK (time >= 0),
  entry bytea NOT NULL CHECK (length(entry) BETWEEN 1 AND 98303)
);
-- What is stored is packed or encrypted: compressing it again gains nothing.
ALTER TABLE entry ALTER entry SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX entry_event ON entry (event);
CREATE INDEX entry_kind ON entry (kind, idx);
-- With kind and index in it, a search by time and kind never touches the entries.
CREATE INDEX entry_time ON entry (time, kind, idx);

-- What erasing takes from an entry, in a table of its own, so that no row of an entry ever changes.
CREATE TABLE content (
  idx bigint PRIMARY KEY CHECK (idx >= 0),
  token_salt bytea CHECK (length(token_salt) = 16),
  tokens bytea CHECK (length(tokens) BETWEEN 16 AND 4096 AND length(tokens) % 16 = 0),
  parts bytea,
  CHECK ((token_salt IS NULL) = (tokens IS NULL)),
  CHECK (tokens IS NOT NULL OR parts IS NOT NULL)
);
ALTER TABLE content ALTER parts SET STORAGE EXTERNAL, ALTER tokens SET STORAGE EXTERNAL;

CREATE TABLE token (
  token bytea NOT NULL CHECK (length(token) = 16),
  idx bigint NOT NULL CHECK (idx >= 0),
  PRIMARY KEY (token, idx)
);

-- The hashes of a level from the one at `node` on, as one batch brought them: a piece of one tile.
CREATE TABLE tile (
  level smallint NOT NULL CHECK (level BETWEEN 0 AND 7),
  node bigint NOT NULL CHECK (node >= 0),
  hashes bytea NOT NULL CHECK (
    length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0 AND node % 256 + length(hashes) / 32 <= 256
  ),
  PRIMARY KEY (level, node)
);
ALTER TABLE tile ALTER hashes SET STORAGE EXTERNAL;

CREATE TABLE checkpoint (
  size bigint PRIMARY KEY CHECK (size >= 1),
  note bytea NOT NULL CHECK (length(note) BETWEEN 1 AND 1048576)
);

CREATE TABLE data_key (
  id bytea PRIMARY KEY CHECK (length(id) = 16),
  scope bytea NOT NULL CHECK (length(scope) = 16),
  run bytea NOT NULL CHECK (length(run) = 16),
  generation bigint NOT NULL CHECK (generation BETWEEN 1 AND 4294967295),
  wrapped bytea NOT NULL CHECK (length(wrapped) = 60)
);
CREATE INDEX data_key_scope ON data_key (scope, id);

-- Not against somebody who means it, but against a slip of whoever may write to these tables.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entry EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tile EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoint EXECUTE FUNCTION refuse_change();
