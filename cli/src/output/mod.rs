//! What commands print: tables in five formats, YAML, sizes and times.

mod text;

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use comfy_table::{
    ContentArrangement, Table as Grid,
    presets::{ASCII_FULL, NOTHING},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::terminal;
pub use text::{date, size};

/// Format of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// With lines around the cells
    #[default]
    Table,
    /// Without lines
    Compact,
    /// Comma-separated, without header
    Csv,
    /// As the server tells it
    Json,
    /// As the server tells it
    Yaml,
}

/// A list to print.
#[derive(Debug, Default)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A list with these headers.
    pub fn new<S: Into<String>>(headers: impl IntoIterator<Item = S>) -> Self {
        Self { headers: headers.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Prints the rows, or the `data` they were made of.
    pub fn print<T: Serialize>(&self, format: Format, data: &T) -> Result<()> {
        let width = std::io::stdout().is_terminal().then(terminal::size).flatten().map(|(width, _)| width);
        print(&self.render(format, width, data)?)
    }

    /// The text in a format, for a terminal of this width.
    pub fn render<T: Serialize>(&self, format: Format, width: Option<u16>, data: &T) -> Result<String> {
        Ok(match format {
            Format::Table | Format::Compact => self.grid(format, width),
            Format::Csv => self.rows.iter().map(|row| csv(row)).collect(),
            Format::Json => serde_json::to_string(data)? + "\n",
            Format::Yaml => yaml(data)?,
        })
    }

    fn grid(&self, format: Format, width: Option<u16>) -> String {
        let mut grid = Grid::new();
        grid.force_no_tty();
        if format == Format::Table {
            let mut style = ASCII_FULL;
            style = style
                .header_separator(comfy_table::LineStyle::new('+', '-', '+', '+'))
                .row_separator(comfy_table::LineStyle::new('+', '-', '+', '+'));
            grid.load_style(style);
        } else {
            grid.load_style(NOTHING);
        }
        if let Some(width) = width {
            grid.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        grid.set_header(&self.headers);
        grid.add_rows(self.rows.iter().cloned());
        grid.trim_fmt() + "\n"
    }
}

/// A line of comma-separated values.
fn csv(cells: &[String]) -> String {
    let quote = |cell: &String| {
        if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    cells.iter().map(quote).collect::<Vec<_>>().join(",") + "\n"
}

/// Prints a text. A reader that went away is an error, unlike with `println`, which panics.
pub fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// A value as YAML.
pub fn yaml<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

/// A value from YAML.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_saphyr::from_str(text).context("this is not the YAML that is expected")
}

/// Prints a value as YAML.
pub fn print_yaml<T: Serialize>(value: &T) -> Result<()> {
    print(&yaml(value)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_api::instances::InstancePut;
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "STATE", "IPV4", "IPV6", "TYPE", "SNAPSHOTS"]);
        table.row([
            "c1",
            "RUNNING",
            "10.158.4.17 (eth0)",
            "fd42:12ab:34cd::216:3eff:fe12:3456 (eth0)",
            "CONTAINER",
            "0",
        ]);
        table.row(["v", "STOPPED", "", "", "VIRTUAL-MACHINE", "2"]);
        table
    }

    #[test]
    fn a_table_is_as_wide_as_its_contents() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["c1", "RUNNING"]);
        table.row(["web", "STOPPED"]);
        let expected = "\
+------+---------+
| NAME | STATE   |
+------+---------+
| c1   | RUNNING |
+------+---------+
| web  | STOPPED |
+------+---------+
";
        assert_eq!(table.render(Format::Table, None, &()).unwrap(), expected);
        assert_eq!(table.render(Format::Table, Some(80), &()).unwrap(), expected);
        assert_eq!(
            table.render(Format::Compact, Some(80), &()).unwrap(),
            " NAME  STATE\n c1    RUNNING\n web   STOPPED\n"
        );
    }

    #[test]
    fn a_wide_table_fits_80_columns() {
        let text = table().render(Format::Table, Some(80), &()).unwrap();
        let widths: Vec<usize> = text.lines().map(str::len).collect();
        assert!(widths.iter().all(|width| *width <= 80), "{text}");
        assert!(text.contains("RUNNING") && text.contains("CONTAINER"), "{text}");
        let free = table().render(Format::Table, None, &()).unwrap();
        assert!(free.contains("fd42:12ab:34cd::216:3eff:fe12:3456 (eth0)"));
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut table = Table::new(["A", "B"]);
        table.row(["10.0.0.1 (eth0)\n10.0.0.2 (eth1)", "x"]);
        table.row(["say \"hi\", you", ""]);
        assert_eq!(
            table.render(Format::Csv, Some(10), &()).unwrap(),
            "\"10.0.0.1 (eth0)\n10.0.0.2 (eth1)\",x\n\"say \"\"hi\"\", you\",\n"
        );
    }

    #[test]
    fn json_and_yaml_are_the_data() {
        let data = serde_json::json!([{"name": "c1", "size": 3}]);
        assert_eq!(table().render(Format::Json, None, &data).unwrap(), "[{\"name\":\"c1\",\"size\":3}]\n");
        assert_eq!(table().render(Format::Yaml, None, &data).unwrap(), "- name: c1\n  size: 3\n");
    }

    #[test]
    fn an_instance_as_yaml() {
        let put = InstancePut {
            architecture: "x86_64".into(),
            config: BTreeMap::from([
                ("limits.cpu".into(), "2".into()),
                ("security.nesting".into(), "true".into()),
                ("cloud-init.user-data".into(), "#cloud-config\npackages: [vim]\n".into()),
            ]),
            devices: BTreeMap::from([("root".into(), BTreeMap::from([("path".into(), "/".into())]))]),
            profiles: vec!["default".into()],
            ..InstancePut::default()
        };
        let text = yaml(&put).unwrap();
        assert_eq!(
            text,
            "architecture: x86_64\nconfig:\n  cloud-init.user-data: |\n    #cloud-config\n    packages: [vim]\n  \
             limits.cpu: \"2\"\n  security.nesting: \"true\"\ndevices:\n  root:\n    path: /\nephemeral: false\nprofiles:\n\
             - default\nstateful: false\ndescription: \"\"\n"
        );
        assert_eq!(from_yaml::<InstancePut>(&text).unwrap(), put);
    }

    #[test]
    fn a_number_is_taken_as_a_value() {
        let put: InstancePut = from_yaml("config:\n  limits.cpu: 2\n  security.nesting: true\n").unwrap();
        assert_eq!(put.config["limits.cpu"], "2");
        assert_eq!(put.config["security.nesting"], "true");
    }

    proptest! {
        #[test]
        fn config_survives_yaml(config in proptest::collection::btree_map("[a-z.]{1,12}", "\\PC*|[ \n\t#:'\"|>-]*", 0..6)) {
            let put = InstancePut { config, ..InstancePut::default() };
            let text = yaml(&put).unwrap();
            prop_assert_eq!(from_yaml::<InstancePut>(&text).unwrap(), put);
        }
    }
}
