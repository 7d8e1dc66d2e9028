//! What a power cut may leave of traced writes.
//!
//! # The model
//!
//! A file is what it was when it was last synced (`fsync`, `fdatasync`), certainly. Of what was written to it since, each
//! sector of 512 bytes is there or not, whatever the order of the writes; a sector that isn't there is as it was before,
//! and where the file grew without the data it holds zeros or rubbish. The same holds of a change of its length. A name in
//! a folder (made, renamed, linked, removed) is as it was when the folder was last synced, certainly; of the changes since,
//! each happened or not, a rename whole or not at all. Syncing a file doesn't make its name durable: some file systems do
//! that, POSIX doesn't promise it.
//!
//! That is less than ext4, xfs and btrfs give (they keep changes of names in order, and a sector is usually 4 KiB).
//! It is more than the worst disk gives: bytes of a sector that were not written stay as they are, which `SQLite` calls
//! powersafe overwrite and assumes too; a disk that lies about syncing, or damages what lies at rest, isn't modelled.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::trace::{Call, Step};
use crate::time::TestIds;

/// What is written whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// What of the changes that weren't synced is on the disk after a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "made here, chosen by tests")]
pub enum Survives {
    /// Nothing.
    Nothing,
    /// All of it: what a process leaves that is killed.
    Everything,
    /// Names, but no data.
    Names,
    /// Data, but no names.
    Data,
    /// Each sector, length and name or not, by this seed.
    Some(u64),
    /// Everything up to a point in time that this seed chooses, the last write torn.
    Prefix(u64),
}

enum Change {
    Write { offset: u64, data: Vec<u8> },
    Resize(u64),
}

#[derive(Default)]
struct File {
    /// As of the last sync.
    synced: Vec<u8>,
    now: Vec<u8>,
    /// What happened since, with the number of the step.
    since: Vec<(u64, Change)>,
}

#[derive(Default)]
struct Dir {
    synced: BTreeMap<String, usize>,
    now: BTreeMap<String, usize>,
    since: Vec<(u64, Vec<Renamed>)>,
}

/// A name that leads somewhere else since.
type Renamed = (String, Option<usize>);

enum Node {
    File(File),
    Dir(Dir),
}

/// A folder on a disk, as a trace makes it.
pub struct Disk {
    nodes: Vec<Node>,
    open: HashMap<(u32, i64), usize>,
    steps: u64,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl Default for Disk {
    /// An empty folder.
    fn default() -> Self {
        Self {
            nodes: vec![Node::Dir(Dir::default())],
            open: HashMap::new(),
            steps: 0,
        }
    }
}

impl Disk {
    /// Makes folders in the root, durably: what was there before the trace began.
    pub fn make_durable_dirs(&mut self, names: &[&str]) {
        for name in names {
            let new = self.nodes.len();
            self.nodes.push(Node::Dir(Dir::default()));
            if let Node::Dir(root) = &mut self.nodes[0] {
                root.now.insert((*name).to_owned(), new);
                root.synced.insert((*name).to_owned(), new);
            }
        }
    }

    /// Does the next step.
    ///
    /// # Errors
    ///
    /// If it doesn't fit what came before, so that the trace missed something.
    pub fn apply(&mut self, step: &Step) -> Result<(), String> {
        self.steps += 1;
        let at = self.steps;
        let process = step.process;
        match &step.call {
            Call::Open {
                fd,
                path,
                creates,
                truncates,
            } => {
                let node = match self.find(path) {
                    Some(node) => node,
                    None if *creates => self.add(path, Node::File(File::default()))?,
                    None => {
                        return Err(format!(
                            "{} was opened, and nothing made it",
                            path.display()
                        ));
                    }
                };
                if *truncates && let Node::File(file) = &mut self.nodes[node] {
                    file.change(at, Change::Resize(0));
                }
                self.open.insert((process, *fd), node);
            }
            Call::Close { fd } => {
                self.open.remove(&(process, *fd));
            }
            Call::Write { fd, offset, data } => {
                let (offset, data) = (*offset, data.clone());
                self.file(process, *fd)?
                    .change(at, Change::Write { offset, data });
            }
            Call::Resize { fd, length } => {
                self.file(process, *fd)?.change(at, Change::Resize(*length));
            }
            Call::Grow { fd, length } => {
                let file = self.file(process, *fd)?;
                if file.now.len() < index(*length) {
                    file.change(at, Change::Resize(*length));
                }
            }
            Call::Sync { fd } => {
                let node = self.node(process, *fd)?;
                match &mut self.nodes[node] {
                    Node::File(file) => {
                        if !file.since.is_empty() {
                            file.synced.clone_from(&file.now);
                        }
                        file.since.clear();
                    }
                    Node::Dir(dir) => {
                        dir.synced.clone_from(&dir.now);
                        dir.since.clear();
                    }
                }
            }
            Call::Unlink { path } | Call::RemoveDir { path } => {
                let (dir, name) = self.parent(path)?;
                dir.change(at, vec![(name, None)]);
            }
            Call::Rename { from, to } => {
                if from.parent() != to.parent() {
                    return Err(format!("{} was moved to another folder", from.display()));
                }
                let node = self.known(from)?;
                let (_, old) = self.parent(from)?;
                let (dir, new) = self.parent(to)?;
                dir.change(at, vec![(old, None), (new, Some(node))]);
            }
            Call::Link { from, to } => {
                let node = self.known(from)?;
                let (dir, name) = self.parent(to)?;
                dir.change(at, vec![(name, Some(node))]);
            }
            Call::MakeDir { path } => {
                self.add(path, Node::Dir(Dir::default()))?;
            }
            Call::Said { .. } => {}
        }
        Ok(())
    }

    /// Whether a file or folder that a process has open has changes that weren't synced.
    #[must_use]
    pub fn is_dirty(&self, process: u32, fd: i64) -> bool {
        match self.open.get(&(process, fd)).map(|n| &self.nodes[*n]) {
            Some(Node::File(file)) => !file.since.is_empty(),
            Some(Node::Dir(dir)) => !dir.since.is_empty(),
            None => false,
        }
    }

    /// What is there after a cut at this moment.
    #[must_use]
    pub fn after_cut(&self, survives: Survives) -> Tree {
        let mut chance = Chance::new(survives, self);
        let mut tree = Tree::default();
        // Chosen once per file, whatever the number of its names.
        let files: Vec<Option<Vec<u8>>> = self
            .nodes
            .iter()
            .map(|node| match node {
                Node::File(file) => Some(file.after_cut(&mut chance)),
                Node::Dir(_) => None,
            })
            .collect();
        let mut waiting = vec![(PathBuf::new(), 0)];
        while let Some((path, node)) = waiting.pop() {
            match (&self.nodes[node], &files[node]) {
                (Node::Dir(dir), _) => {
                    for (name, node) in dir.after_cut(&mut chance) {
                        waiting.push((path.join(name), node));
                    }
                    tree.dirs.push(path);
                }
                (Node::File(_), Some(bytes)) => {
                    tree.files.insert(path, bytes.clone());
                }
                (Node::File(_), None) => {}
            }
        }
        tree.dirs.sort_unstable();
        tree
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut node = 0;
        for part in path {
            let Node::Dir(dir) = &self.nodes[node] else {
                return None;
            };
            node = *dir.now.get(part.to_str()?)?;
        }
        Some(node)
    }

    fn known(&self, path: &Path) -> Result<usize, String> {
        self.find(path)
            .ok_or_else(|| format!("{} was used, and nothing made it", path.display()))
    }

    fn parent(&mut self, path: &Path) -> Result<(&mut Dir, String), String> {
        let wrong = || format!("{} lies in no folder", path.display());
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(wrong)?;
        let parent = self.known(path.parent().ok_or_else(wrong)?)?;
        match &mut self.nodes[parent] {
            Node::Dir(dir) => Ok((dir, name.to_owned())),
            Node::File(_) => Err(wrong()),
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> Result<usize, String> {
        let (at, new) = (self.steps, self.nodes.len());
        let (dir, name) = self.parent(path)?;
        dir.change(at, vec![(name, Some(new))]);
        self.nodes.push(node);
        Ok(new)
    }

    fn node(&self, process: u32, fd: i64) -> Result<usize, String> {
        self.open
            .get(&(process, fd))
            .copied()
            .ok_or_else(|| format!("descriptor {fd} was used, and nothing opened it"))
    }

    fn file(&mut self, process: u32, fd: i64) -> Result<&mut File, String> {
        let node = self.node(process, fd)?;
        match &mut self.nodes[node] {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(format!("descriptor {fd} is a folder, and was written to")),
        }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("the files of a test fit into memory")
}

/// Puts `data` at `offset`, behind zeros if the file is shorter.
fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (index(offset), index(offset) + data.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

impl File {
    fn change(&mut self, at: u64, change: Change) {
        match &change {
            Change::Write { offset, data } => put(&mut self.now, *offset, data),
            Change::Resize(length) => self.now.resize(index(*length), 0),
        }
        self.since.push((at, change));
    }

    fn after_cut(&self, chance: &mut Chance) -> Vec<u8> {
        if self.since.is_empty() || chance.survives == Survives::Everything {
            return self.now.clone();
        }
        let mut bytes = self.synced.clone();
        for (at, change) in &self.since {
            match change {
                Change::Resize(length) => {
                    if chance.data(*at) {
                        bytes.resize(index(*length), 0);
                    }
                }
                Change::Write { offset, data } => {
                    let end = offset + data.len() as u64;
                    let mut from = *offset;
                    while from < end {
                        let to = end.min((from / SECTOR_BYTES + 1) * SECTOR_BYTES);
                        if chance.data(*at) {
                            let piece = &data[index(from - offset)..index(to - offset)];
                            put(&mut bytes, from, piece);
                        } else if bytes.len() < index(to) && chance.grows(*at) {
                            let start = bytes.len();
                            bytes.resize(index(to), 0);
                            chance.rubbish(&mut bytes[start..]);
                        }
                        from = to;
                    }
                }
            }
        }
        bytes
    }
}

impl Dir {
    fn change(&mut self, at: u64, names: Vec<Renamed>) {
        apply(&mut self.now, &names);
        self.since.push((at, names));
    }

    fn after_cut(&self, chance: &mut Chance) -> BTreeMap<String, usize> {
        let mut names = self.synced.clone();
        for (at, change) in &self.since {
            if chance.name(*at) {
                apply(&mut names, change);
            }
        }
        names
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &[Renamed]) {
    for (name, node) in change {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

/// The coin that is thrown for each change.
struct Chance {
    survives: Survives,
    ids: TestIds,
    /// Of 256 throws, how many keep data, and how many keep a name.
    data: u64,
    name: u64,
    rubbish: bool,
    /// The step up to which everything is there.
    until: u64,
}

impl Chance {
    fn new(survives: Survives, disk: &Disk) -> Self {
        let ids = TestIds::new(match survives {
            Survives::Some(seed) | Survives::Prefix(seed) => seed,
            _ => 0,
        });
        let mut steps: Vec<u64> = disk
            .nodes
            .iter()
            .flat_map(|node| -> Box<dyn Iterator<Item = u64>> {
                match node {
                    Node::File(file) => Box::new(file.since.iter().map(|(at, _)| *at)),
                    Node::Dir(dir) => Box::new(dir.since.iter().map(|(at, _)| *at)),
                }
            })
            .collect();
        steps.sort_unstable();
        let until = if steps.is_empty() {
            0
        } else {
            steps[index(ids.number() % steps.len() as u64)]
        };
        Self {
            survives,
            // Coins that fall on one side mostly find other states than fair ones.
            data: [32, 128, 224][index(ids.number() % 3)],
            name: [64, 128, 192][index(ids.number() % 3)],
            rubbish: ids.number().is_multiple_of(2),
            until,
            ids,
        }
    }

    fn data(&self, at: u64) -> bool {
        match self.survives {
            Survives::Everything | Survives::Data => true,
            Survives::Nothing | Survives::Names => false,
            Survives::Some(_) => self.ids.number() % 256 < self.data,
            Survives::Prefix(_) => {
                at < self.until || (at == self.until && self.ids.number().is_multiple_of(2))
            }
        }
    }

    fn name(&self, at: u64) -> bool {
        match self.survives {
            Survives::Everything | Survives::Names => true,
            Survives::Nothing | Survives::Data => false,
            Survives::Some(_) => self.ids.number() % 256 < self.name,
            Survives::Prefix(_) => at <= self.until,
        }
    }

    /// Whether a file grows where its data isn't there.
    fn grows(&self, at: u64) -> bool {
        match self.survives {
            Survives::Names => true,
            Survives::Some(_) => self.ids.number().is_multiple_of(2),
            // What comes behind the prefix has left no trace.
            Survives::Prefix(_) => at <= self.until && self.ids.number().is_multiple_of(2),
            _ => false,
        }
    }

    fn rubbish(&self, bytes: &mut [u8]) {
        if self.rubbish && matches!(self.survives, Survives::Some(_) | Survives::Prefix(_)) {
            audit_core::time::IdSource::fill(&self.ids, bytes);
        }
    }
}

/// Folders and files, by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made here, read by tests")]
pub struct Tree {
    /// The folders; the first is the root, with an empty path.
    pub dirs: Vec<PathBuf>,
    /// The files.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Tree {
    /// Takes the files out that `which` picks.
    #[must_use]
    pub fn without(mut self, which: impl Fn(&Path) -> bool) -> Self {
        self.files.retain(|path, _| !which(path));
        self
    }

    /// A number that tells trees apart.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for dir in &self.dirs {
            hasher.write(dir.as_os_str().as_encoded_bytes());
            hasher.write_u8(0);
        }
        for (path, bytes) in &self.files {
            hasher.write(path.as_os_str().as_encoded_bytes());
            hasher.write_u64(bytes.len() as u64);
            hasher.write(bytes);
        }
        hasher.finish()
    }

    /// Makes `dir` exactly this; what was in it is removed. Files are for their owner alone.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn write_to(&self, dir: &Path) -> io::Result<()> {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(dir)?;
        for path in &self.dirs {
            fs::create_dir_all(dir.join(path))?;
        }
        for (path, bytes) in &self.files {
            let path = dir.join(path);
            fs::write(&path, bytes)?;
            #[cfg(unix)]
            fs::set_permissions(
                &path,
                <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(calls: &[Call]) -> Disk {
        let mut disk = Disk::default();
        for call in calls {
            let call = call.clone();
            disk.apply(&Step { process: 1, call }).unwrap();
        }
        disk
    }

    fn open(fd: i64, path: &str) -> Call {
        Call::Open {
            fd,
            path: path.into(),
            creates: !path.is_empty(),
            truncates: false,
        }
    }

    fn write(offset: u64, data: &[u8]) -> Call {
        let data = data.to_vec();
        Call::Write {
            fd: 3,
            offset,
            data,
        }
    }

    const SYNC: Call = Call::Sync { fd: 3 };
    const SYNC_DIR: Call = Call::Sync { fd: 4 };

    fn states(disk: &Disk) -> std::collections::BTreeSet<Option<Vec<u8>>> {
        (0..200)
            .map(|seed| {
                let mut tree = disk.after_cut(Survives::Some(seed));
                tree.files.remove(Path::new("a"))
            })
            .collect()
    }

    #[test]
    fn what_was_synced_is_there_and_what_was_not_may_be_torn() {
        let (old, new) = (vec![1; 1024], vec![2; 1024]);
        let calls = [
            open(4, ""),
            open(3, "a"),
            write(0, &old),
            SYNC,
            SYNC_DIR,
            write(0, &new),
        ];
        let disk = disk(&calls);
        let is = |survives| disk.after_cut(survives).files[Path::new("a")].clone();
        assert_eq!(is(Survives::Nothing), old);
        assert_eq!(is(Survives::Names), old);
        assert_eq!(is(Survives::Everything), new);
        assert_eq!(is(Survives::Data), new);
        let torn = |first: u8, second: u8| Some([vec![first; 512], vec![second; 512]].concat());
        let all = [torn(1, 1), torn(1, 2), torn(2, 1), torn(2, 2)];
        assert_eq!(states(&disk), all.into_iter().collect());
    }

    #[test]
    fn a_name_is_there_only_when_its_folder_was_synced() {
        let calls = [open(4, ""), open(3, "a"), write(0, b"x"), SYNC];
        let without = disk(&calls);
        assert!(without.after_cut(Survives::Nothing).files.is_empty());
        assert!(states(&without).contains(&None), "the file is always there");
        let with = disk(&[&calls[..], &[SYNC_DIR]].concat());
        assert_eq!(states(&with), [Some(b"x".to_vec())].into());
    }

    #[test]
    fn a_rename_leaves_one_of_two_files_and_never_none() {
        let rename = Call::Rename {
            from: "b".into(),
            to: "a".into(),
        };
        let old = [open(4, ""), open(3, "a"), write(0, b"old"), SYNC, SYNC_DIR];
        let new = [open(3, "b"), write(0, b"new"), SYNC, rename.clone()];
        let both = [Some(b"old".to_vec()), Some(b"new".to_vec())];
        assert_eq!(states(&disk(&[&old[..], &new].concat())), both.into());
        // Renamed before it was synced: an empty file may be what is there.
        let early = [open(3, "b"), write(0, b"new"), rename];
        let found = states(&disk(&[&old[..], &early].concat()));
        assert!(found.contains(&Some(Vec::new())), "{found:?}");
    }

    #[test]
    fn a_file_that_grew_holds_data_zeros_or_rubbish() {
        let calls = [
            open(4, ""),
            open(3, "a"),
            SYNC_DIR,
            write(0, &[7; 512]),
            write(512, &[8; 512]),
        ];
        let found = states(&disk(&calls));
        let zeros = Some([vec![0; 512], vec![8; 512]].concat());
        assert!(found.contains(&zeros), "no hole");
        assert!(found.contains(&Some(Vec::new())), "never empty");
        let rubbish = |bytes: &Option<Vec<u8>>| {
            let head = bytes.as_ref().and_then(|b| b.first_chunk::<512>());
            head.is_some_and(|b| *b != [0; 512] && *b != [7; 512])
        };
        assert!(found.iter().any(rubbish), "no rubbish");
    }

    #[test]
    fn a_prefix_keeps_the_order() {
        let calls = [
            open(4, ""),
            open(3, "a"),
            SYNC_DIR,
            write(0, &[1; 512]),
            write(512, &[2; 512]),
            write(1024, &[3; 512]),
        ];
        let disk = disk(&calls);
        for seed in 0..50 {
            let tree = disk.after_cut(Survives::Prefix(seed));
            let bytes = &tree.files[Path::new("a")];
            let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
            let whole = sectors.iter().take_while(|b| (1..4).contains(*b)).count();
            assert_eq!(sectors[..whole], [1, 2, 3][..whole], "{sectors:?}");
            assert!(sectors.len() <= whole + 1, "{sectors:?}");
        }
    }
}
