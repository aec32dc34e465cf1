//! Figures by name, their medians over rounds, as a table and as JSON.

use serde_json::{Map, Value, json};

use crate::cli::Common;

/// What one round of one server came to. Rounds of one command hold the same figures in the same order; a round that
/// failed holds none.
pub(crate) type Round = Vec<Figure>;

/// One named number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    name: &'static str,
    /// What was measured, where it was.
    value: Option<f64>,
    digits: usize,
    is_compared: bool,
}

impl Figure {
    /// A figure in a column called `name`, shown with `digits` places.
    pub(crate) fn new(name: &'static str, digits: usize, value: impl Into<Option<f64>>) -> Figure {
        Figure { name, value: value.into(), digits, is_compared: false }
    }

    /// The same with a column of ratios to the first server after it.
    pub(crate) fn compared(self) -> Figure {
        Figure { is_compared: true, ..self }
    }

    fn text(&self, value: Option<f64>) -> String {
        value.map_or("-".to_owned(), |value| format!("{value:.0$}", self.digits))
    }
}

/// All rounds of one command.
#[derive(Debug)]
pub(crate) struct Report {
    /// What was run.
    title: String,
    names: Vec<String>,
    /// Rounds by server.
    rounds: Vec<Vec<Round>>,
    /// Why rounds failed.
    pub(crate) failures: Vec<String>,
}

/// Runs `round` for each server in turn, `common.rounds` times. The order of the servers turns around with every
/// round. A round that fails leaves a gap, so that the other servers still have their figures.
pub(crate) fn compare(common: &Common, title: String, mut round: impl FnMut(usize) -> Result<Round, String>) -> Report {
    let names: Vec<String> = common.servers.iter().map(|spec| spec.name.clone()).collect();
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); names.len()];
    let mut failures = Vec::new();
    for number in 1..=common.rounds {
        let mut order: Vec<usize> = (0..names.len()).collect();
        if number % 2 == 0 {
            order.reverse();
        }
        for i in order {
            let measured = round(i).unwrap_or_else(|reason| {
                eprintln!("{}: {reason}", names[i]);
                failures.push(format!("{}: {reason}", names[i]));
                Round::new()
            });
            let known = measured.iter().filter(|figure| figure.value.is_some());
            let line: Vec<String> =
                known.map(|figure| format!("{} {}", figure.text(figure.value), figure.name)).collect();
            eprintln!("round {number} of {}: {}: {}", common.rounds, names[i], line.join(", "));
            rounds[i].push(measured);
        }
    }
    Report { title, names, rounds, failures }
}

impl Report {
    /// The table: one line per server, medians, and ratios to the first server.
    ///
    /// A ratio is the median of the ratios round by round: rounds of the same number ran next to each other.
    pub(crate) fn table(&self) -> String {
        let Some(figures) = self.rounds.iter().flatten().find(|round| !round.is_empty()) else {
            return format!("{}: no figures\n", self.title);
        };
        let mut head = vec!["server".to_owned()];
        for figure in figures {
            head.push(figure.name.to_owned());
            head.extend(figure.is_compared.then(|| "ratio".to_owned()));
        }
        let mut rows = vec![head];
        for (name, own) in self.names.iter().zip(&self.rounds) {
            let mut row = vec![name.clone()];
            for (column, figure) in figures.iter().enumerate() {
                let value = |round: &Round| round.get(column)?.value;
                row.push(figure.text(median(own.iter().filter_map(value))));
                if figure.is_compared {
                    let pairs = own.iter().zip(&self.rounds[0]).filter_map(|(a, b)| Some(value(a)? / value(b)?));
                    row.push(median(pairs).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
                }
            }
            rows.push(row);
        }
        aligned(&rows)
    }

    /// What was run, and every figure of all rounds under the name of its column.
    pub(crate) fn json(&self) -> Value {
        let object = |round: &Round| -> Value {
            let pairs = round.iter().map(|figure| (figure.name.to_owned(), json!(figure.value)));
            Value::Object(pairs.collect::<Map<String, Value>>())
        };
        let servers: Vec<Value> = (self.names.iter().zip(&self.rounds))
            .map(|(name, own)| json!({ "name": name, "rounds": own.iter().map(object).collect::<Vec<_>>() }))
            .collect();
        json!({ "case": self.title, "servers": servers, "failures": self.failures })
    }
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

fn aligned(rows: &[Vec<String>]) -> String {
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

    #[test]
    fn a_round_that_failed_is_a_gap() {
        let round = |value: f64| vec![Figure::new("reads/s", 0, value).compared(), Figure::new("Ki", 1, None)];
        let names = vec!["a".to_owned(), "b".to_owned()];
        let rounds = vec![vec![round(10.0), round(20.0)], vec![Round::new(), round(10.0)]];
        let report = Report { title: "read".to_owned(), names, rounds, failures: Vec::new() };
        let lines = ["server  reads/s  ratio  Ki", "a            15   1.00   -", "b            10   0.50   -", ""];
        assert_eq!(report.table(), lines.join("\n"));
    }
}
