-- Everything in the log's schema, one line each: what the store is held against when it is opened.
WITH n AS (
  SELECT relnamespace AS oid FROM pg_class WHERE oid = 'migration'::regclass
), c AS (
  SELECT * FROM pg_class WHERE relnamespace = (SELECT oid FROM n)
)
SELECT line FROM (
  SELECT format('relation %s kind=%s persistence=%s rules=%s security=%s inherited=%s', c.relname, c.relkind,
      c.relpersistence, (SELECT count(*) FROM pg_rewrite r WHERE r.ev_class = c.oid),
      c.relrowsecurity OR c.relforcerowsecurity,
      EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent)))
    FROM c
  UNION ALL
  SELECT format('column %s.%s %s null=%s collation=%s default=%s generated=%s%s', c.relname, a.attname,
      format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, coalesce(o.collname, '-'), a.atthasdef,
      nullif(a.attgenerated, ''), nullif(a.attidentity, ''))
    FROM c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_collation o ON o.oid = a.attcollation
    WHERE c.relkind IN ('r', 'p', 'f') AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT format('index %s on %s unique=%s primary=%s good=%s whole=%s by=%s', i.relname, t.relname, x.indisunique,
      x.indisprimary, x.indisvalid AND x.indisready AND x.indislive, x.indpred IS NULL AND x.indexprs IS NULL,
      (SELECT string_agg(a.attname, ',' ORDER BY k.n) FROM unnest(x.indkey::int2[]) WITH ORDINALITY k (attnum, n)
        JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum))
    FROM c i JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
  UNION ALL
  SELECT format('check %s on %s validated=%s', k.conname, c.relname, k.convalidated)
    FROM c JOIN pg_constraint k ON k.conrelid = c.oid WHERE k.contype NOT IN ('n', 'p', 'u')
  UNION ALL
  SELECT format('trigger %s on %s enabled=%s type=%s calls=%s', t.tgname, c.relname, t.tgenabled, t.tgtype, t.tgfoid::regproc)
    FROM c JOIN pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT format('function %s(%s) body=%s', p.proname, pg_get_function_identity_arguments(p.oid), encode(sha256(convert_to(p.prosrc, 'UTF8')), 'hex'))
    FROM pg_proc p WHERE p.pronamespace = (SELECT oid FROM n)
  UNION ALL
  SELECT format('type %s', t.typname)
    FROM pg_type t WHERE t.typnamespace = (SELECT oid FROM n) AND t.typcategory <> 'A'
      AND NOT EXISTS (SELECT FROM c WHERE c.reltype = t.oid)
  UNION ALL
  SELECT format('operator %s', o.oprname) FROM pg_operator o WHERE o.oprnamespace = (SELECT oid FROM n)
) AS lines (line) ORDER BY line COLLATE "C"
