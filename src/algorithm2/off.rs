//! How files hold a choice that may be absent: as its value, or as the word "off". TOML has no null, and a key that is left out
//! means the default, which need not be none.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
enum Word {
    #[serde(rename = "off")]
    Off,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a value of the choice or \"off\"")]
enum Form<T> {
    Off(Word),
    Value(T),
}

pub(super) fn serialize<T: Serialize, S: Serializer>(
    value: &Option<T>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(to),
        None => to.serialize_str("off"),
    }
}

pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Ok(match Option::<Form<T>>::deserialize(from)? {
        None | Some(Form::Off(Word::Off)) => None,
        Some(Form::Value(value)) => Some(value),
    })
}
