//! Kills processes at random moments, one log through all of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use audit_core::Result as CoreResult;
use audit_core::store::Store;
use audit_core::time::{Clock as _, System};

use super::judge::{Judge, Ledger};
use super::victim::{Ended, Victim, pause};
use super::work::{Host, Work};
use crate::time::TestIds;

/// The longest pause between an acknowledgement and the kill: a few appends.
const LINGER: Duration = Duration::from_millis(8);

/// How a backend takes part.
#[async_trait]
pub trait Mortal: Send + Sync {
    /// A process that does `work` on `host`: the test binary, started again, with one test that calls [`Work::given`] and
    /// [`Work::run`].
    fn process(&self, host: &Host, work: Work) -> Command;

    /// Opens the store on `host` to write, as the next process would.
    async fn open(&self, host: &Host) -> CoreResult<Arc<dyn Store>>;
}

/// What a process is doing when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "made here, counted by tests")]
pub enum Moment {
    /// It starts and opens the log.
    Opening,
    /// Its callers append.
    Appending,
    /// Two processes append to one log; both are killed.
    TwoAppending,
    /// It closes the log.
    Closing,
}

/// What was killed, and what was promised before.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "made here, read by tests")]
pub struct Killed {
    /// Kills at each moment.
    pub at: BTreeMap<Moment, u32>,
    /// Kills behind which the state file had a checkpoint that the store didn't have.
    pub between: u32,
    /// Events that were acknowledged by processes.
    pub acknowledged: usize,
}

struct Killer<'a> {
    backend: &'a dyn Mortal,
    host: &'a Host,
    judge: Judge,
    ledger: Ledger,
    ids: TestIds,
    processes: u32,
    /// How long opening and closing took when nothing was killed: from the start of the process, and from `closing`.
    opening: Duration,
    closing: Duration,
}

/// Makes a log on `host`, and kills processes that write to it, `kills` times at moments that `seed` chooses. After each the
/// log is opened and judged, and goes on.
///
/// # Errors
///
/// The first thing that is wrong.
///
/// # Panics
///
/// If a process can't be started or waited for.
pub async fn kill_and_go_on(
    backend: &dyn Mortal,
    host: &Host,
    kills: u32,
    seed: u64,
) -> Result<Killed, String> {
    const MOMENTS: [Moment; 5] = [
        Moment::Appending,
        Moment::Opening,
        Moment::TwoAppending,
        Moment::Appending,
        Moment::Closing,
    ];
    let work = Work {
        process: 0,
        creates: true,
        callers: 2,
        events: 10,
        publish_ms: 20,
        epoch_ms: 100,
    };
    let first = start(&mut backend.process(host, work))?;
    let first = first.end().map_err(|e| e.to_string())?;
    let mut killer = Killer {
        judge: Judge::new(host).map_err(|e| format!("{e}: {}", first.stderr))?,
        backend,
        host,
        ledger: Ledger::default(),
        ids: TestIds::new(seed),
        processes: 0,
        opening: Duration::ZERO,
        closing: Duration::ZERO,
    };
    killer.hear(&first)?;
    killer.measure()?;
    let mut killed = Killed {
        at: BTreeMap::new(),
        between: 0,
        acknowledged: 0,
    };
    for round in 0..3 * kills {
        let done = killed.at.values().sum::<u32>();
        if done == kills {
            break;
        }
        let moment = MOMENTS[done as usize % MOMENTS.len()];
        if killer.kill(moment)? {
            *killed.at.entry(moment).or_default() += 1;
        } else {
            // It closed the log faster than the one that was measured: the same again, sooner.
            killer.closing /= 2;
        }
        let told = |e| format!("round {round}, {moment:?}: {e}");
        killed.between += u32::from(killer.look().await.map_err(told)?);
    }
    if killed.at.values().sum::<u32>() < kills {
        return Err(format!("most processes ended by themselves: {killed:?}"));
    }
    killed.acknowledged = killer.ledger.acknowledged();
    Ok(killed)
}

fn start(command: &mut Command) -> Result<Victim, String> {
    Victim::start(command).map_err(|e| format!("{command:?} can't be started: {e}"))
}

impl Killer<'_> {
    fn below(&self, n: u64) -> u64 {
        self.ids.number() % n
    }

    fn few(&self, n: u32) -> u32 {
        u32::try_from(self.below(n.into())).unwrap_or_default()
    }

    fn up_to(&self, time: Duration) -> Duration {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.below(micros + 1))
    }

    fn start(&mut self, events: u32) -> Result<Victim, String> {
        self.processes += 1;
        let work = Work {
            process: self.processes,
            creates: false,
            callers: 1 + self.few(6),
            events,
            publish_ms: 5 + self.few(40),
            epoch_ms: 100,
        };
        start(&mut self.backend.process(self.host, work))
    }

    /// Waits for lines of a process that doesn't end before.
    fn wait(victim: &mut Victim, word: &str, times: u32) -> Result<(), String> {
        if victim.wait_for(word, times as usize) {
            Ok(())
        } else {
            let why = victim.last_words();
            Err(format!("a process ended before it said {word:?}: {why}"))
        }
    }

    fn hear(&mut self, ended: &Ended) -> Result<(), String> {
        if !ended.was_killed() && !ended.status.success() {
            return Err(format!("a process failed by itself: {}", ended.stderr));
        }
        ended
            .lines
            .iter()
            .try_for_each(|line| self.ledger.hear(line))
    }

    fn measure(&mut self) -> Result<(), String> {
        let now = || System.monotonic_micros();
        let began = now();
        let mut victim = self.start(2)?;
        Self::wait(&mut victim, "opened", 1)?;
        self.opening = Duration::from_micros(now() - began);
        Self::wait(&mut victim, "closing", 1)?;
        let began = now();
        let ended = victim.end().map_err(|e| e.to_string())?;
        self.closing = Duration::from_micros(now() - began);
        self.hear(&ended)
    }

    /// Starts processes and kills them; `false` if all of them had ended before.
    fn kill(&mut self, moment: Moment) -> Result<bool, String> {
        const ENDLESS: u32 = u32::MAX;
        let mut victims = match moment {
            Moment::Closing => vec![self.start(2)?],
            Moment::TwoAppending => vec![self.start(ENDLESS)?, self.start(ENDLESS)?],
            Moment::Opening | Moment::Appending => vec![self.start(ENDLESS)?],
        };
        let linger = match moment {
            Moment::Opening => self.opening,
            Moment::Closing => {
                Self::wait(&mut victims[0], "closing", 1)?;
                self.closing
            }
            Moment::Appending | Moment::TwoAppending => {
                let times = self.few(30);
                for victim in &mut victims {
                    Self::wait(victim, "ack", times)?;
                }
                LINGER
            }
        };
        pause(self.up_to(linger));
        let mut killed = false;
        for victim in victims {
            let ended = victim.kill().map_err(|e| e.to_string())?;
            killed |= ended.was_killed();
            self.hear(&ended)?;
        }
        Ok(killed)
    }

    /// Opens what is left and compares; whether the state file was ahead of the store's checkpoints.
    async fn look(&mut self) -> Result<bool, String> {
        let store = self.backend.open(self.host).await;
        let store = store.map_err(|e| format!("the store can't be opened: {e}"))?;
        let between = self.judge.is_ahead(&store).await?;
        self.processes += 1;
        let contents = self.judge.recover(&store, self.processes).await?;
        contents.keeps(&self.ledger)?;
        Ok(between)
    }
}
