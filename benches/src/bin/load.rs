//! Measures the gateway under load, each figure beside its baseline.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use benches::Result;
use benches::load::fixtures::{fixtures, tiny};
use benches::load::gateway::in_memory;
use benches::load::latency::gateway;
use benches::load::memory::memory;
use benches::load::predecessor::{Figures, predecessor};
use benches::load::provider;
use benches::load::stream::stream;
use benches::load::table::print;
use benches::machine::{cores, cpu, file_system, scratch};

const USAGE: &str =
    "usage: load [gateway|stream|memory|fixtures|predecessor|all] [--seconds N] [--exchanges N]";

/// How long each latency is measured.
const SECONDS: u64 = 12;
/// Exchanges after which memory is measured last.
const EXCHANGES: u64 = 100_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // The other parties are this program too.
        ["provider"] => provide(),
        ["gateway-in-memory", provider] => in_memory(provider.parse()?),
        _ => Measurement::parse(&arguments)?.run(),
    }
}

fn provide() -> Result<()> {
    let address = provider::in_thread()?;
    print(&format!("LISTENING http://{address}"))?;
    // Ends when whoever started it does.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

struct Measurement {
    what: String,
    lasts: Duration,
    exchanges: u64,
}

impl Measurement {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut parsed = Self {
            what: "all".to_owned(),
            lasts: Duration::from_secs(SECONDS),
            exchanges: EXCHANGES,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--seconds" => {
                    let seconds: u64 = rest.next().ok_or(USAGE)?.parse()?;
                    parsed.lasts = Duration::from_secs(seconds.max(1));
                }
                "--exchanges" => {
                    parsed.exchanges = rest.next().ok_or(USAGE)?.parse::<u64>()?.max(10);
                }
                "gateway" | "stream" | "memory" | "fixtures" | "predecessor" | "all" => {
                    parsed.what.clone_from(argument);
                }
                _ => return Err(USAGE.into()),
            }
        }
        Ok(parsed)
    }

    fn run(&self) -> Result<()> {
        let scratch = scratch()?;
        let at = fs::canonicalize(scratch.path())?;
        print(&format!(
            "{} cores, {}; files on {}; every party a process of its own on this machine, over loopback",
            cores(),
            cpu(),
            file_system(&at)
        ))?;
        let below = |name: &str| -> Result<PathBuf> {
            let dir = at.join(name);
            fs::create_dir(&dir)?;
            Ok(dir)
        };
        match self.what.as_str() {
            "gateway" => {
                gateway(&below("gateway")?, self.lasts)?;
            }
            "stream" => stream(&below("stream")?, self.lasts)?,
            "memory" => {
                memory(&below("memory")?, &self.steps())?;
            }
            "fixtures" => {
                fixtures(&below("fixtures")?)?;
                tiny(&below("tiny")?)?;
            }
            what => {
                let added = gateway(&below("gateway")?, self.lasts)?;
                if what == "all" {
                    stream(&below("stream")?, self.lasts)?;
                }
                let figures = Figures {
                    added,
                    recorded: fixtures(&below("fixtures")?)?,
                    tiny: tiny(&below("tiny")?)?,
                    memory: memory(&below("memory")?, &self.steps())?,
                };
                predecessor(Path::new(&below("predecessor")?), &figures)?;
            }
        }
        Ok(())
    }

    fn steps(&self) -> Vec<u64> {
        [100, 10, 2, 1].map(|part| self.exchanges / part).into()
    }
}
