//! The traced file operations of a process: what `trace.c` writes down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs, io};

use crate::preload;

/// The source of the library that is loaded into a traced process.
const SOURCE: &str = include_str!("trace.c");

/// How a process is traced: which folder, and where the trace goes.
#[derive(Debug, Clone)]
pub struct Tracer {
    library: PathBuf,
    root: PathBuf,
    file: PathBuf,
}

impl Tracer {
    /// Compiles the library into `scratch`, to trace what is done below `root`. Both must exist, and `scratch` must not
    /// lie below `root`.
    ///
    /// # Errors
    ///
    /// If there is no C compiler, or it refuses.
    pub fn new(scratch: &Path, root: &Path) -> io::Result<Self> {
        let library = preload::compile(scratch, "trace", SOURCE)?;
        Ok(Self {
            library,
            root: fs::canonicalize(root)?,
            file: scratch.join("trace"),
        })
    }

    /// Lets `command` be traced.
    pub fn trace(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("AUDIT_TRACE_ROOT", &self.root)
            .env("AUDIT_TRACE_FILE", &self.file);
    }

    /// Lets `command` be traced, and die by SIGKILL right behind the `n`-th `call` (`sync`, `write`, `rename`, `link`)
    /// on a path that ends with `name`.
    pub fn trace_until(&self, command: &mut Command, call: &str, name: &str, n: u32) {
        self.trace(command);
        command.env("AUDIT_TRACE_DIE", format!("{call}:{name}:{n}"));
    }

    /// What was traced so far, by all processes.
    ///
    /// # Errors
    ///
    /// If there is no trace, or it isn't one.
    pub fn read(&self) -> io::Result<Trace> {
        let bytes = fs::read(&self.file)?;
        Trace::parse(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// One call of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made here, read by tests")]
pub struct Step {
    /// Who called.
    pub process: u32,
    /// What.
    pub call: Call,
}

/// A call that changes files, with paths relative to the traced folder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "made here, read by tests")]
#[expect(missing_docs, reason = "each is called like its system call")]
pub enum Call {
    Open {
        fd: i64,
        path: PathBuf,
        creates: bool,
        truncates: bool,
    },
    Close {
        fd: i64,
    },
    Write {
        fd: i64,
        offset: u64,
        data: Vec<u8>,
    },
    /// The file now has this length.
    Resize {
        fd: i64,
        length: u64,
    },
    /// The file now has at least this length.
    Grow {
        fd: i64,
        length: u64,
    },
    Sync {
        fd: i64,
    },
    Unlink {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    MakeDir {
        path: PathBuf,
    },
    RemoveDir {
        path: PathBuf,
    },
    /// Standard output: what the process promised to whoever reads it.
    Said {
        text: String,
    },
}

/// What processes did, in order.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made here, read by tests")]
pub struct Trace {
    /// The calls.
    pub steps: Vec<Step>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("steps", &self.steps.len())
            .finish()
    }
}

impl Trace {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let short = || format!("the trace ends in the record at byte {at}");
            let length = u32::from_ne_bytes(take(&mut rest).ok_or_else(short)?) as usize;
            let (mut record, behind) = rest.split_at_checked(length).ok_or_else(short)?;
            rest = behind;
            let call = take::<1>(&mut record).ok_or_else(short)?[0];
            let process = u32::from_ne_bytes(take(&mut record).ok_or_else(short)?);
            let fd = i64::from_ne_bytes(take(&mut record).ok_or_else(short)?);
            let a = u64::from_ne_bytes(take(&mut record).ok_or_else(short)?);
            let _: [u8; 8] = take(&mut record).ok_or_else(short)?;
            let length = u32::from_ne_bytes(take(&mut record).ok_or_else(short)?) as usize;
            let (path, data) = record.split_at_checked(length).ok_or_else(short)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let path = PathBuf::from(text(path));
            let second = || PathBuf::from(text(data));
            let call = match call {
                1 if a & 4 != 0 => {
                    return Err(format!("{}: opened to sync by itself", path.display()));
                }
                1 => Call::Open {
                    fd,
                    path,
                    creates: a & 1 != 0,
                    truncates: a & 2 != 0,
                },
                2 => Call::Close { fd },
                3 => Call::Write {
                    fd,
                    offset: a,
                    data: data.to_vec(),
                },
                4 => Call::Resize { fd, length: a },
                5 => Call::Grow { fd, length: a },
                6 => Call::Sync { fd },
                7 => Call::Unlink { path },
                8 => Call::Rename {
                    from: path,
                    to: second(),
                },
                9 => Call::Link {
                    from: path,
                    to: second(),
                },
                10 => Call::MakeDir { path },
                11 => Call::RemoveDir { path },
                12 => Call::Said { text: text(data) },
                13 => {
                    return Err(format!(
                        "{}: {}, which can't be replayed",
                        path.display(),
                        text(data)
                    ));
                }
                other => return Err(format!("call {other} in the record at byte {at}")),
            };
            steps.push(Step { process, call });
        }
        Ok(Self { steps })
    }

    /// The same run as if syncing did nothing for the files whose path `forgets` picks: what it would have been with an
    /// engine or a disk that lies. It is asked with the number of the step.
    #[must_use]
    pub fn without_syncs(&self, forgets: impl Fn(usize, &Path) -> bool) -> Self {
        self.keep(|step, call, path| {
            !(matches!(call, Call::Sync { .. }) && path.is_some_and(|path| forgets(step, path)))
        })
    }

    /// The same run without some files, which a test removes before it opens what is left.
    #[must_use]
    pub fn without_files(&self, which: impl Fn(&Path) -> bool) -> Self {
        self.keep(|_, _, path| !path.is_some_and(&which))
    }

    /// Each step with the path of the file that it is about; of what names two, the first.
    pub fn paths(&self) -> impl Iterator<Item = (&Step, Option<PathBuf>)> {
        let mut open: BTreeMap<(u32, i64), PathBuf> = BTreeMap::new();
        self.steps.iter().map(move |step| {
            let path = match &step.call {
                Call::Open { fd, path, .. } => {
                    open.insert((step.process, *fd), path.clone());
                    Some(path.clone())
                }
                Call::Close { fd } => open.remove(&(step.process, *fd)),
                Call::Write { fd, .. }
                | Call::Resize { fd, .. }
                | Call::Grow { fd, .. }
                | Call::Sync { fd } => open.get(&(step.process, *fd)).cloned(),
                Call::Unlink { path }
                | Call::MakeDir { path }
                | Call::RemoveDir { path }
                | Call::Rename { from: path, .. }
                | Call::Link { from: path, .. } => Some(path.clone()),
                Call::Said { .. } => None,
            };
            (step, path)
        })
    }

    fn keep(&self, which: impl Fn(usize, &Call, Option<&Path>) -> bool) -> Self {
        Self {
            steps: self
                .paths()
                .enumerate()
                .filter(|(number, (step, path))| which(*number, &step.call, path.as_deref()))
                .map(|(_, (step, _))| step.clone())
                .collect(),
        }
    }
}

impl Call {
    /// Whether this writes bytes that hold `needle`.
    #[must_use]
    pub fn writes(&self, needle: &[u8]) -> bool {
        match self {
            Self::Write { data, .. } => memchr::memmem::find(data, needle).is_some(),
            _ => false,
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*head)
}
