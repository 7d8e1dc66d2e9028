//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::GlobalFlags;

/// A tamper-evident, encrypted log of what LLM agents do, that anyone can verify.
///
/// Exit codes: 0 done; 1 failed, and for `verify`: the evidence contradicts itself or a remembered checkpoint;
/// 2 wrong call or configuration, and for `verify`: could not be decided.
#[derive(Debug, Parser)]
#[command(
    name = "audit-trail",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a log: its keys, its store and a configuration file
    Init(InitArgs),
    /// Run the gateway: a reverse proxy that records every exchange with an LLM provider
    Serve(ServeArgs),
    /// Run a command, and record its exchanges with LLM providers as one session
    ///
    /// The command gets a gateway of its own: base URLs of providers, an HTTPS proxy with its certificate, and trace
    /// context stand in its environment, and in nobody else's. Its exit code is passed on; 128 + N if signal N ended it.
    /// 125: this program failed; 126: the command can't be run; 127: it isn't there.
    Run(RunArgs),
    /// The certificate authority with which `serve --intercept` and `run` stand in for providers' hosts
    Ca {
        #[command(subcommand)]
        command: CaCommand,
    },
    /// Record an event, or with `-` one event per line of JSON on stdin
    Emit(EmitArgs),
    /// List events
    Log(LogArgs),
    /// Show one event, decrypted, with its proof state
    Show(ShowArgs),
    /// Verify the log in the store
    Verify(VerifyArgs),
    /// Write the proof that an event is in the log (C2SP tlog-proof)
    Prove(ProveArgs),
    /// Write an evidence bundle: some entries, their content, and what proves both, for whoever has the public key
    Bundle(BundleArgs),
    /// Write the whole log, still encrypted, into one file, which `audit-verify` checks without this host
    Export(ExportArgs),
    /// Copy the log to another store, whatever the two engines are; a copy that was cut goes on
    Copy(CopyArgs),
    /// Follow the log with a second store until stopped
    Mirror(MirrorArgs),
    /// Copy a store that is one file (SQLite) while it is written to, and verify the copy
    Backup(BackupArgs),
    /// Put a backup in the place of a lost store (SQLite)
    Restore(RestoreArgs),
    /// Print the latest signed checkpoint
    Checkpoint,
    /// Look at, or bring up to date, the schema of a store that has migrations (PostgreSQL)
    Migrate {
        #[command(subcommand)]
        command: MigrateCommand,
    },
    /// Say until when a log in a bucket is locked against deletion, or lock it for longer (S3 Object Lock)
    Retention {
        #[command(subcommand)]
        command: RetentionCommand,
    },
    /// Keep what a session has from being deleted until the hold is released (S3 Object Lock)
    Hold {
        #[command(subcommand)]
        command: HoldCommand,
    },
    /// Say which records of a gateway are not in the log, and why; exits with 1 if nothing says why
    Gaps {
        /// As JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Try the rules that decide what is recorded, print them, or prove what stood where they hit
    Redaction {
        #[command(subcommand)]
        command: RedactionCommand,
    },
    /// Check keys, store, clock, free disk space and permissions
    Doctor,
    /// Run the main job on a temporary log: record an agent's session, verify it, catch a manipulation
    Demo(DemoArgs),
    /// Show the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Say which version the schema has, and which migrations are missing
    Status,
    /// Do the migrations that are missing; makes the schema if there is none
    Up,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RetentionCommand {
    /// Say how many objects are locked and until when; asks the server about every object
    Status {
        #[command(flatten)]
        place: LockPlace,
        /// As JSON (docs/s3-layout.md)
        #[arg(long)]
        json: bool,
    },
    /// Lock every object at least until a time; never shortens a lock, and can't be undone
    Extend {
        #[command(flatten)]
        place: LockPlace,
        /// Until when: RFC 3339
        #[arg(long, value_name = "TIME")]
        until: String,
        #[command(flatten)]
        answers: LockAnswers,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum HoldCommand {
    /// Put a legal hold on every entry that a session has now
    Set {
        /// The session
        #[arg(long, value_name = "ID")]
        session: String,
        #[command(flatten)]
        place: LockPlace,
        #[command(flatten)]
        answers: LockAnswers,
    },
    /// Release a legal hold, or every one on a session
    #[command(group = clap::ArgGroup::new("which").required(true).args(["session", "hold"]))]
    Release {
        /// Every hold on this session
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// This hold
        #[arg(long, value_name = "ID")]
        hold: Option<uuid::Uuid>,
        #[command(flatten)]
        place: LockPlace,
        #[command(flatten)]
        answers: LockAnswers,
    },
    /// List the legal holds in force, and what of their sessions isn't held
    Status {
        #[command(flatten)]
        place: LockPlace,
        /// As JSON lines (docs/s3-layout.md)
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RedactionCommand {
    /// Write what would be recorded of a file to stdout, and which rules hit to stderr; needs no log
    Test {
        /// The file [default: stdin]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Its media type [default: by the file's name, else application/json]
        #[arg(long, value_name = "TYPE")]
        media: Option<String>,
        /// Its content coding, such as gzip
        #[arg(long, value_name = "CODING")]
        encoding: Option<String>,
        /// The payload's name, for rules that name one
        #[arg(long, value_name = "NAME", default_value = "request.body")]
        payload: String,
        /// A built-in rule set, in place of the configured ones; can be given several times
        #[arg(long, value_name = "NAME@VERSION")]
        rule_set: Vec<String>,
        /// The whole event as JSON, with what it says of the rules
        #[arg(long)]
        json: bool,
    },
    /// Print the rule sets that are on, as they would stand in a file
    Rules {
        /// Built-in rule sets instead; can be given several times
        #[arg(long, value_name = "NAME@VERSION")]
        rule_set: Vec<String>,
    },
    /// Say whether a file is what a field of an event was before it was redacted (0: it is, 1: it isn't)
    #[command(group = clap::ArgGroup::new("asked").required(true).multiple(true).args(["original", "print_salt"]))]
    Prove {
        /// Event id or leaf index
        #[arg(value_name = "EVENT")]
        id: String,
        /// The field, for example payloads/request.body
        #[arg(value_name = "FIELD")]
        field: String,
        /// The original
        #[arg(long, value_name = "FILE")]
        original: Option<PathBuf>,
        /// Print salt and commitment, so that others can check without the log's keys (docs/redaction.md)
        #[arg(long)]
        print_salt: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LockPlace {
    /// The store that is locked, such as a mirror in a bucket; the act is recorded in the log's own store
    /// [default: the log's own store]
    #[arg(long, value_name = "URL")]
    pub(crate) at: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LockAnswers {
    /// Who answers for it
    #[arg(long, value_name = "ID")]
    pub(crate) by: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting
    Show {
        /// Say where each setting comes from
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of the log in checkpoints, unique in the world, for example audit.example.org/clinic-7
    /// [default: the host's name and a random part]
    #[arg(long, value_name = "NAME")]
    pub(crate) origin: Option<String>,
    /// Public key of an auditor, as `audit-verify keygen` writes it; without it a key pair is made here
    #[arg(long, value_name = "FILE")]
    pub(crate) auditor_key: Option<PathBuf>,
    /// Don't seal the key files with a passphrase: whoever reads them holds the log's keys
    #[arg(long)]
    pub(crate) no_passphrase: bool,
    /// The bucket has no Object Lock: whoever administers it can delete entries, and every report will say so
    #[arg(long)]
    pub(crate) without_object_lock: bool,
}

#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on [default: 127.0.0.1:8484]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where /NAME/… goes; can be given several times
    #[arg(
        long,
        value_name = "NAME=URL",
        help = "Where /NAME/… goes, for example openai=https://api.openai.com; can be given several times"
    )]
    pub(crate) upstream: Vec<String>,
    /// Be an HTTPS proxy too, which looks into what goes to providers and passes on the rest
    #[arg(long)]
    pub(crate) intercept: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The session in which everything is recorded [default: a new random one]
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// The agent that acts
    #[arg(long, value_name = "ID")]
    pub(crate) actor: Option<String>,
    /// The person for whom
    #[arg(long, value_name = "ID")]
    pub(crate) on_behalf_of: Option<String>,
    /// The pseudonymous data subject
    #[arg(long, value_name = "ID")]
    pub(crate) subject: Option<String>,
    /// Don't intercept TLS: only clients that take their base URL from the environment are recorded
    #[arg(long)]
    pub(crate) no_intercept: bool,
    /// Refuse HTTPS to hosts that are not recorded, for clients that use the proxy
    #[arg(long, conflicts_with = "no_intercept")]
    pub(crate) refuse_others: bool,
    /// The command and its arguments, behind `--`
    #[arg(value_name = "CMD", required = true, last = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make a certificate authority for interception: a key file, and beside it the certificate as PEM
    Create {
        /// A host for which it may issue certificates: a name, .NAME for every host below it, * within a label, or an
        /// address; can be given several times [default: those of all known providers]
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// Where to put the key; the certificate goes beside it [default: audit-trail-ca.key beside the settings]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Don't seal the key file with a passphrase: whoever reads it holds the key
        #[arg(long)]
        no_passphrase: bool,
    },
    /// Print the certificate as PEM, and say for which hosts and until when it is
    Show,
}

#[derive(Debug, Args)]
pub(crate) struct EmitArgs {
    /// Kind of the event, for example approval.granted (docs/events.md), or - to read events from stdin
    #[arg(value_name = "KIND|-")]
    pub(crate) kind: String,
    /// When it happened, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) time: Option<String>,
    /// Who acted
    #[arg(long, value_name = "ID")]
    pub(crate) actor: Option<String>,
    /// What sort of actor that is
    #[arg(long, value_enum, default_value_t = ActorSort::Service, requires = "actor")]
    pub(crate) actor_kind: ActorSort,
    /// The person for whom
    #[arg(long, value_name = "ID")]
    pub(crate) on_behalf_of: Option<String>,
    /// The session it belongs to
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// The pseudonymous data subject
    #[arg(long, value_name = "ID")]
    pub(crate) subject: Option<String>,
    /// The system in which it happened
    #[arg(long, value_name = "ID")]
    pub(crate) system: Option<String>,
    /// What it refers to, for example `model_id=m1`; can be given several times
    #[arg(long = "ref", value_name = "NAME=VALUE")]
    pub(crate) refs: Vec<String>,
    /// An attribute; the value is JSON, or else text; can be given several times
    #[arg(long = "attr", value_name = "NAME=VALUE")]
    pub(crate) attributes: Vec<String>,
    /// A payload from a file; can be given several times
    #[arg(long = "payload", value_name = "NAME=FILE")]
    pub(crate) payloads: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ActorSort {
    Human,
    Agent,
    Service,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Only this session
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Only this actor
    #[arg(long, value_name = "ID")]
    pub(crate) actor: Option<String>,
    /// Only this data subject
    #[arg(long, value_name = "ID")]
    pub(crate) subject: Option<String>,
    /// Only events that refer to this
    #[arg(long = "ref", value_name = "NAME=VALUE")]
    pub(crate) refs: Vec<String>,
    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// Only events at or after this time (RFC 3339, or a duration back from now: 90s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only events before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// At most so many, the latest
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
    /// Go on with new events as they come
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// JSON lines instead of a table, with the whole content
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Event id or leaf index
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Write one payload's bytes to stdout, as they were recorded, and nothing else
    #[arg(long, value_name = "NAME")]
    pub(crate) payload: Option<String>,
    /// Undo its content encoding (gzip, br, zstd, deflate); what was recorded stays as it was sent
    #[arg(long, requires = "payload")]
    pub(crate) decoded: bool,
    /// Write the canonical entry to stdout, as it is hashed, and nothing else
    #[arg(long, conflicts_with = "payload")]
    pub(crate) entry: bool,
    /// Of an `llm.request` or `llm.response`: write the whole exchange in one form, whoever the provider is, as JSON
    #[arg(long, conflicts_with_all = ["payload", "entry"])]
    pub(crate) exchange: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Public key of the log, or @FILE [default: from the configuration file]
    #[arg(long, value_name = "VKEY")]
    pub(crate) vkey: Option<String>,
    /// Leaf hash of the log's first entry, which pins the keys that it registers [default: from the configuration file]
    #[arg(long, value_name = "HASH")]
    pub(crate) opened: Option<String>,
    /// The auditor's private key: check the MAC chains too
    #[arg(long, value_name = "FILE")]
    pub(crate) auditor_key: Option<PathBuf>,
    /// Open the key ring and check content and tokens too
    #[arg(long)]
    pub(crate) content: bool,
    /// A signed checkpoint that was kept elsewhere; can be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Vec<PathBuf>,
    /// Compute the root hash a second time, by another implementation
    #[arg(long)]
    pub(crate) full: bool,
    /// Fail if two entries lie further apart than this (90s, 15m, 2h, 7d)
    #[arg(long, value_name = "DURATION")]
    pub(crate) gap_max: Option<String>,
    /// Fail if the last entry is older than this
    #[arg(long, value_name = "DURATION")]
    pub(crate) fresh_within: Option<String>,
    /// Call it undecided if entries without a checkpoint span more than this
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) unpublished_max: String,
    /// The verdict as JSON (docs/verdict.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// Event id or leaf index
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Folder for the two files
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["session", "from", "to", "event"]))]
pub(crate) struct BundleArgs {
    /// The events of this session
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Events at or after this time (RFC 3339, or a duration back from now: 90s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Events before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// This event, by its id or leaf index; can be given several times, without the others
    #[arg(long, value_name = "ID", conflicts_with_all = ["session", "from", "to"])]
    pub(crate) event: Vec<String>,
    /// Withhold a field, for example subject, payloads/request or refs/*; can be given several times
    #[arg(long, value_name = "FIELD")]
    pub(crate) redact: Vec<String>,
    /// Disclose this field and no other; can be given several times
    #[arg(long, value_name = "FIELD")]
    pub(crate) only: Vec<String>,
    /// An earlier signed checkpoint, which the log is shown to extend; can be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) since_checkpoint: Vec<PathBuf>,
    /// The file to write
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file to write; it must not exist
    #[arg(value_name = "FILE")]
    pub(crate) bundle: PathBuf,
    /// Leave the encrypted content out: smaller, and the verifier says that it didn't check it
    #[arg(long)]
    pub(crate) without_parts: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The store to copy from [default: the log's store]
    #[arg(long, value_name = "URL")]
    pub(crate) from: Option<String>,
    /// The store to copy to; made if there is none, continued if it has a part of the log
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    /// Public key of the log, or @FILE [default: from the configuration file]
    #[arg(long, value_name = "VKEY")]
    pub(crate) vkey: Option<String>,
    /// Leaf hash of the log's first entry [default: from the configuration file]
    #[arg(long, value_name = "HASH")]
    pub(crate) opened: Option<String>,
    /// Copy only what a checkpoint commits to
    #[arg(long)]
    pub(crate) published: bool,
    /// Go on with new entries as they come, until interrupted
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// The summary as JSON (docs/moving.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MirrorArgs {
    /// The mirror's store; made if there is none [default: `url` in the section `[mirror]` of the configuration file]
    #[arg(
        long,
        value_name = "URL",
        help = "The mirror's store; made if there is none [default: url in the section mirror of the configuration file]"
    )]
    pub(crate) to: Option<String>,
    /// Public key of the log, or @FILE [default: from the configuration file]
    #[arg(long, value_name = "VKEY")]
    pub(crate) vkey: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to write; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Public key of the log, or @FILE [default: from the configuration file]
    #[arg(long, value_name = "VKEY")]
    pub(crate) vkey: Option<String>,
    /// Leaf hash of the log's first entry [default: from the configuration file]
    #[arg(long, value_name = "HASH")]
    pub(crate) opened: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// Public key of the log, or @FILE [default: from the configuration file]
    #[arg(long, value_name = "VKEY")]
    pub(crate) vkey: Option<String>,
    /// Leaf hash of the log's first entry [default: from the configuration file]
    #[arg(long, value_name = "HASH")]
    pub(crate) opened: Option<String>,
    /// A signed checkpoint that was kept elsewhere, which the backup must hold; can be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Vec<PathBuf>,
    /// Published entries are lost for good: restore what is left, and open a successor log that says so
    #[arg(long, requires_all = ["reason", "by", "successor", "successor_origin"])]
    pub(crate) accept_rollback: bool,
    /// Why the entries are lost
    #[arg(long, value_name = "TEXT", requires = "accept_rollback")]
    pub(crate) reason: Option<String>,
    /// Who accepts it
    #[arg(long, value_name = "ID", requires = "accept_rollback")]
    pub(crate) by: Option<String>,
    /// New folder for the successor's configuration, keys and store
    #[arg(long, value_name = "DIR", requires = "accept_rollback")]
    pub(crate) successor: Option<PathBuf>,
    /// Name of the successor in checkpoints; another one than the log's
    #[arg(long, value_name = "NAME", requires = "accept_rollback")]
    pub(crate) successor_origin: Option<String>,
    /// Don't seal the successor's key ring with a passphrase
    #[arg(long, requires = "accept_rollback")]
    pub(crate) no_passphrase: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep all files in this new folder
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}
