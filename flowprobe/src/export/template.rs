//! Fields of flow records that have a name, by which collectors choose them.

use std::{fmt, str::FromStr};

use super::Collector;
use crate::{
    ipfix::{Fields, FieldsError},
    nearest::nearest,
};

/// What a template is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemplateName(String);

/// No name: it has to stand in a URL, in front of a `=`, and in one word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a template: 1 to {longest} letters, digits, dashes, dots and underscores",
    longest = TemplateName::LONGEST
)]
pub struct TemplateNameError(String);

impl TemplateName {
    /// In characters.
    const LONGEST: usize = 64;
}

impl FromStr for TemplateName {
    type Err = TemplateNameError;

    fn from_str(text: &str) -> Result<Self, TemplateNameError> {
        let known = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if (1..=Self::LONGEST).contains(&text.len()) && text.chars().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TemplateNameError(text.to_owned()))
        }
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `NAME=ELEMENT,ELEMENT…`: the fields of the flow records of a collector that asks for them with
/// `?template=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// As collectors ask for it.
    pub name: TemplateName,
    /// Those that their records have.
    pub fields: Fields,
}

/// Why it does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamedTemplateError {
    /// No name, or no fields.
    #[error("a template is written NAME=ELEMENT,ELEMENT…, and {0:?} has no =")]
    Form(String),
    /// A name that cannot stand in a URL.
    #[error(transparent)]
    Name(#[from] TemplateNameError),
    /// The fields.
    #[error("template {0}: {1}")]
    Fields(TemplateName, FieldsError),
}

impl FromStr for NamedTemplate {
    type Err = NamedTemplateError;

    fn from_str(text: &str) -> Result<Self, NamedTemplateError> {
        // No element has one in its name, so that all before the last is meant for the name.
        let (name, fields) = text
            .rsplit_once('=')
            .ok_or_else(|| NamedTemplateError::Form(text.to_owned()))?;
        let name: TemplateName = name.trim().parse()?;
        match fields.parse() {
            Ok(fields) => Ok(Self { name, fields }),
            Err(why) => Err(NamedTemplateError::Fields(name, why)),
        }
    }
}

/// A collector asks for a template that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no template {name}: {}", hint(.name, .nearest.as_ref()))]
pub struct NoTemplate {
    /// What it asks for.
    pub name: TemplateName,
    /// What it may mean.
    pub nearest: Option<TemplateName>,
}

fn hint(name: &TemplateName, nearest: Option<&TemplateName>) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => {
            format!("define it with --template {name}=ELEMENT,ELEMENT… or a table [[template]]")
        }
    }
}

/// The fields that a collector asks for by a name, if it does.
///
/// # Errors
/// None of `templates` has this name.
pub fn chosen<'a>(
    collector: &Collector,
    templates: &'a [NamedTemplate],
) -> Result<Option<&'a Fields>, NoTemplate> {
    let Some(name) = collector.template() else {
        return Ok(None);
    };
    let found = templates.iter().find(|template| template.name == *name);
    let found = found.map(|template| &template.fields);
    found.map(Some).ok_or_else(|| {
        let names = templates.iter().map(|template| template.name.0.as_str());
        NoTemplate {
            name: name.clone(),
            nearest: nearest(&name.0, names).map(|name| TemplateName(name.to_owned())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> NamedTemplate {
        text.parse().expect(text)
    }

    #[test]
    fn a_template_is_a_name_and_fields() {
        let read = template(" wide-2.x_Y = ipVersion, octetDeltaCount");
        assert_eq!(read.name.to_string(), "wide-2.x_Y");
        assert_eq!(Ok(read.fields), "ipVersion,octetDeltaCount".parse());
    }

    #[test]
    fn errors_say_what_is_wrong_and_in_which_template() {
        let no_name = "is no name of a template: 1 to 64 letters, digits, dashes, dots and \
                       underscores";
        let long = "x".repeat(65);
        for (text, message) in [
            (
                "ipVersion,vlanId",
                "a template is written NAME=ELEMENT,ELEMENT…, and \"ipVersion,vlanId\" has no =",
            ),
            ("=ipVersion", &format!("\"\" {no_name}")),
            ("a b=ipVersion", &format!("\"a b\" {no_name}")),
            ("a=b=ipVersion", &format!("\"a=b\" {no_name}")),
            ("a&b=ipVersion", &format!("\"a&b\" {no_name}")),
            ("ü=ipVersion", &format!("\"ü\" {no_name}")),
            (
                &format!("{long}=ipVersion"),
                &format!("\"{long}\" {no_name}"),
            ),
            (
                "wide=octetDeltaCont",
                "template wide: \"octetDeltaCont\" is no element of flow records: did you mean octetDeltaCount?",
            ),
            ("w=vlanId,vlanId", "template w: vlanId is named twice"),
            (
                "w=sourceIPv4Address",
                "template w: this leaves flows of IPv6 without a field: add one that they have",
            ),
        ] {
            let error = text.parse::<NamedTemplate>().expect_err(text);
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_collector_gets_what_it_asks_for() {
        let templates = [
            template("wide=ipVersion,vlanId"),
            template("narrow=ipVersion"),
        ];
        let asks =
            |url: &str| chosen(&url.parse().expect(url), &templates).map(Option::<&Fields>::cloned);
        assert_eq!(asks("udp://h"), Ok(None));
        for template in &templates {
            let url = format!("udp://h?template={}", template.name);
            assert_eq!(asks(&url), Ok(Some(template.fields.clone())));
        }
        let said = |url| asks(url).expect_err(url).to_string();
        assert_eq!(
            said("udp://h?template=narow"),
            "there is no template narow: did you mean narrow?"
        );
        assert_eq!(
            said("udp://h?template=other"),
            "there is no template other: define it with --template other=ELEMENT,ELEMENT… or a table [[template]]"
        );
    }
}
