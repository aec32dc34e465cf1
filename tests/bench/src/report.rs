//! Medians over rounds, as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::AppendArgs;
use crate::counters::{Counted, Counters};
use crate::load::Measured;

/// One measured round of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    appends: u64,
    appends_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_append: f64,
    /// User and kernel instructions per append, where perf counted them.
    instructions: Option<(f64, f64)>,
    resident_bytes: u64,
}

impl Round {
    /// What a round comes to, from the load's view and from the kernel's before and after it.
    pub(crate) fn new(measured: &Measured, before: Counters, after: Counters, counted: Option<Counted>) -> Round {
        let appends = measured.latencies.total();
        let per_append = |value: f64| value / appends as f64;
        let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        Round {
            appends,
            appends_per_s: appends as f64 / measured.elapsed.as_secs_f64(),
            p50_us: micros(measured.latencies.quantile(0.5)),
            p99_us: micros(measured.latencies.quantile(0.99)),
            cpu_us_per_append: per_append(micros(nanoseconds(after.cpu.saturating_sub(before.cpu)))),
            instructions: counted.map(|c| (per_append(c.user as f64), per_append(c.kernel as f64))),
            resident_bytes: after.resident_bytes,
        }
    }

    /// One line for stderr while the run goes on.
    pub(crate) fn line(&self, name: &str) -> String {
        let ki = self.instructions.map_or("-".to_owned(), |(u, k)| format!("{:.1} Ki", (u + k) / 1e3));
        format!("{name} {:.0} appends/s, p99 {:.0} us, {ki}", self.appends_per_s, self.p99_us)
    }

    fn total_instructions(&self) -> Option<f64> {
        self.instructions.map(|(user, kernel)| user + kernel)
    }

    fn to_json(self) -> Value {
        json!({
            "appends": self.appends,
            "appends_per_s": self.appends_per_s,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "cpu_us_per_append": self.cpu_us_per_append,
            "instructions_user_per_append": self.instructions.map(|(user, _)| user),
            "instructions_kernel_per_append": self.instructions.map(|(_, kernel)| kernel),
            "resident_bytes": self.resident_bytes,
        })
    }
}

/// The table: one line per server, medians, and ratios to the first server.
///
/// A ratio is the median of the ratios round by round: rounds of the same number ran next to each other.
pub(crate) fn table(names: &[&str], rounds: &[Vec<Round>]) -> String {
    let mut rows = vec![
        [
            "server",
            "appends/s",
            "ratio",
            "p50 us",
            "p99 us",
            "CPU us",
            "Ki user",
            "Ki kernel",
            "Ki",
            "ratio",
            "RSS MiB",
        ]
        .map(str::to_owned),
    ];
    for (name, own) in names.iter().zip(rounds) {
        let column = |value: fn(&Round) -> Option<f64>, digits: usize, unit: f64| {
            median(own.iter().filter_map(value)).map_or("-".to_owned(), |m| format!("{:.digits$}", m / unit))
        };
        let ratio = |value: fn(&Round) -> Option<f64>| {
            let pairs = own.iter().zip(&rounds[0]).filter_map(|(a, b)| Some(value(a)? / value(b)?));
            median(pairs).map_or("-".to_owned(), |m| format!("{m:.2}"))
        };
        rows.push([
            (*name).to_owned(),
            column(|r| Some(r.appends_per_s), 0, 1.0),
            ratio(|r| Some(r.appends_per_s)),
            column(|r| Some(r.p50_us), 0, 1.0),
            column(|r| Some(r.p99_us), 0, 1.0),
            column(|r| Some(r.cpu_us_per_append), 2, 1.0),
            column(|r| r.instructions.map(|(user, _)| user), 1, 1e3),
            column(|r| r.instructions.map(|(_, kernel)| kernel), 1, 1e3),
            column(Round::total_instructions, 1, 1e3),
            ratio(Round::total_instructions),
            column(|r| Some(r.resident_bytes as f64), 0, (1 << 20) as f64),
        ]);
    }
    aligned(&rows)
}

/// All rounds and what they were run with.
pub(crate) fn json(args: &AppendArgs, names: &[&str], rounds: &[Vec<Round>]) -> String {
    let servers: Vec<Value> = names
        .iter()
        .zip(rounds)
        .map(|(name, own)| json!({ "name": name, "rounds": own.iter().map(|r| r.to_json()).collect::<Vec<_>>() }))
        .collect();
    let document = json!({
        "connections": args.connections,
        "streams": args.streams,
        "bytes": args.bytes,
        "seconds": args.seconds,
        "servers": servers,
    });
    format!("{document:#}\n")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        even if even % 2 == 0 => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
            match column {
                0 => text += &format!("{cell:<width$}"),
                _ => text += &format!("  {cell:>width$}"),
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }
}
