//! AWS' files of profiles: sections of `name = value`, and below a name without a value indented ones.

use crate::error::{DaoError, Result};

/// A section: its name, and its values under lower case names, in which `s3.endpoint_url` is the indented one below `s3`.
pub struct Section {
    pub name: String,
    pub values: Vec<(String, String)>,
}

impl Section {
    /// The last value of that name that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().rfind(|(other, value)| other == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }
}

/// The sections of a text, in its order.
///
/// # Errors
/// `Value` for a line that is none of these: its number is told, and not what is in it.
pub fn sections(text: &str) -> Result<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    let mut parent: Option<String> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let is_indented = line.starts_with([' ', '\t']);
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        let wrong = || {
            DaoError::value(format!("line {} cannot be understood", number + 1))
                .expected("[section], or name = value")
                .hint("write it as `aws configure` does; the line is not shown here, as it may be secret")
        };
        if !is_indented && let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(wrong)?;
            sections.push(Section { name: spaced(name), values: Vec::new() });
            parent = None;
            continue;
        }
        let section = sections.last_mut().ok_or_else(wrong)?;
        let Some((name, value)) = line.split_once('=') else {
            // What is indented may go on with the value before, which none of ours does.
            if is_indented {
                continue;
            }
            return Err(wrong());
        };
        let (name, value) = (name.trim().to_lowercase(), value.trim().to_owned());
        match (&parent, is_indented) {
            (Some(parent), true) => section.values.push((format!("{parent}.{name}"), value)),
            _ => {
                parent = value.is_empty().then(|| name.clone());
                section.values.push((name, value));
            }
        }
    }
    Ok(sections)
}

/// A line up to what is a comment in it, which stands alone or after a space.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with(['#', ';']) {
        return "";
    }
    let end = [" #", " ;", "\t#", "\t;"].iter().filter_map(|mark| line.find(mark)).min();
    &line[..end.unwrap_or(line.len())]
}

/// A name with one space between its words, and without quotes.
fn spaced(name: &str) -> String {
    name.replace(['"', '\''], "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_profiles_are_read() {
        let text = "# made by hand\n[default]\nRegion=eu-west-1 ; near\naws_secret_access_key = a#b=c;d==\n\n\
                    [profile  \"my lab\"]\r\ns3 =\r\n  endpoint_url = http://h:9\n  max = 3\nregion = x\n[default]\nregion = y\n";
        let found = sections(text).unwrap();
        let names: Vec<&str> = found.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, ["default", "profile my lab", "default"]);
        assert_eq!(found[0].get("region"), Some("eu-west-1"));
        assert_eq!(found[0].get("aws_secret_access_key"), Some("a#b=c;d=="));
        assert_eq!(found[1].get("s3.endpoint_url"), Some("http://h:9"));
        assert_eq!((found[1].get("region"), found[1].get("endpoint_url")), (Some("x"), None));
        assert!(sections("").unwrap().is_empty());
    }

    #[test]
    fn lines_of_another_kind_are_named_unseen() {
        for text in ["hush", "[a]\nhush", "key = hush", "[a\nb = hush"] {
            let error = sections(text).err().unwrap().to_string();
            assert!(error.starts_with("line ") && !error.contains("hush"), "{error}");
        }
    }
}
