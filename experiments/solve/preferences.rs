//! 𝒟 of Section 4.1 from JSON, JSONL or CSV.

use crate::json::{Fields, Json, as_index};
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::Path;

/// A response: tokens, or the (state, action) pairs of a general table.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Tokens(Vec<usize>),
    Pairs(Vec<(usize, usize)>),
}

/// One comparison and where it was given.
#[derive(Debug, Clone)]
pub struct Comparison {
    pub place: String,
    pub prompt: Option<usize>,
    pub winner: Response,
    pub loser: Response,
}

const MOST: usize = u32::MAX as usize - 1;

/// Reads `preferences`; a text is the path of a CSV or JSONL file, relative to `dir`.
pub fn read(json: &Json, dir: &Path) -> Result<Vec<Comparison>> {
    match json {
        Json::Text(path) => {
            let text = fs::read(dir.join(path))
                .map_err(|e| anyhow!("cannot read: {e}"))
                .and_then(|bytes| String::from_utf8(bytes).context("not UTF-8 text"))
                .with_context(|| format!("preferences ({path})"))?;
            let extension = Path::new(path).extension().and_then(|e| e.to_str());
            match extension {
                Some("jsonl" | "ndjson") => from_jsonl(path, &text),
                Some("csv") => from_csv(path, &text),
                _ => bail!(
                    "preferences: found {path:?}, expected a list or the path of a .jsonl or .csv file"
                ),
            }
        }
        inline => inline
            .list("preferences")?
            .iter()
            .enumerate()
            .map(|(i, item)| comparison(item.clone(), format!("preferences[{i}]")))
            .collect(),
    }
}

fn from_jsonl(path: &str, text: &str) -> Result<Vec<Comparison>> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            let place = format!("preferences ({path} line {})", i + 1);
            let item = Json::parse_line(line).with_context(|| place.clone())?;
            comparison(item, place)
        })
        .collect()
}

fn from_csv(path: &str, text: &str) -> Result<Vec<Comparison>> {
    let name = format!("preferences ({path})");
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let headers = reader.headers().with_context(|| name.clone())?.clone();
    if let Some(unknown) = headers
        .iter()
        .find(|h| !["prompt", "winner", "loser"].contains(h))
    {
        bail!("{name}: unknown column `{unknown}`, expected prompt, winner, loser");
    }
    if let Some((_, twice)) = headers
        .iter()
        .enumerate()
        .find(|(i, h)| headers.iter().take(*i).any(|before| before == *h))
    {
        bail!("{name}: column `{twice}` is given twice");
    }
    let column = |key: &str| headers.iter().position(|h| h == key);
    let (winner, loser) = match (column("winner"), column("loser")) {
        (Some(w), Some(l)) => (w, l),
        _ => bail!("{name}: expected the columns prompt, winner, loser"),
    };
    let prompt = column("prompt");
    let mut out = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| name.clone())?;
        let line = record.position().map_or(0, csv::Position::line);
        let place = format!("preferences ({path} line {line})");
        let field = |i: usize| record.get(i).unwrap_or_default();
        let prompt = match prompt.map(field) {
            None | Some("") => None,
            Some(text) => Some(whole(text, &format!("{place}: prompt"))?),
        };
        out.push(Comparison {
            prompt,
            winner: csv_response(field(winner), &format!("{place}: winner"))?,
            loser: csv_response(field(loser), &format!("{place}: loser"))?,
            place,
        });
    }
    Ok(out)
}

fn whole(text: &str, place: &str) -> Result<usize> {
    match text.parse::<f64>() {
        Ok(x) => as_index(x, place, MOST),
        Err(_) => bail!("{place}: found {text:?}, expected a whole number"),
    }
}

/// `0 1 2`, `3:0 4:1` or the JSON of either.
fn csv_response(text: &str, place: &str) -> Result<Response> {
    if text.starts_with('[') {
        let json = Json::parse(text).with_context(|| place.to_string())?;
        return response(&json, place);
    }
    let parts = text.split([' ', ',', ';', '\t']).filter(|p| !p.is_empty());
    let parts: Vec<&str> = parts.collect();
    if parts.iter().any(|p| p.contains(':')) {
        let pair = |p: &&str| -> Result<(usize, usize)> {
            let (s, a) = p
                .split_once(':')
                .ok_or_else(|| anyhow!("{place}: found {p:?}, expected STATE:ACTION"))?;
            Ok((whole(s, place)?, whole(a, place)?))
        };
        return Ok(Response::Pairs(
            parts.iter().map(pair).collect::<Result<_>>()?,
        ));
    }
    let tokens = parts.iter().map(|p| whole(p, place));
    Ok(Response::Tokens(tokens.collect::<Result<_>>()?))
}

fn comparison(item: Json, place: String) -> Result<Comparison> {
    let mut fields = Fields::of(item, &place)?;
    let prompt = match fields.take("prompt") {
        None => None,
        Some(json) => Some(json.index(&fields.place("prompt"), MOST)?),
    };
    let winner = response(&fields.require("winner")?, &fields.place("winner"))?;
    let loser = response(&fields.require("loser")?, &fields.place("loser"))?;
    fields.finish()?;
    Ok(Comparison {
        place,
        prompt,
        winner,
        loser,
    })
}

fn response(json: &Json, place: &str) -> Result<Response> {
    let items = json.list(place)?;
    if !matches!(items.first(), Some(Json::List(_))) {
        let tokens = items
            .iter()
            .enumerate()
            .map(|(h, t)| t.index(&format!("{place}[{h}]"), MOST));
        return Ok(Response::Tokens(tokens.collect::<Result<_>>()?));
    }
    let pairs = items.iter().enumerate().map(|(h, item)| {
        let place = format!("{place}[{h}]");
        match item.list(&place)? {
            [s, a] => Ok((
                s.index(&format!("{place}[0]"), MOST)?,
                a.index(&format!("{place}[1]"), MOST)?,
            )),
            other => bail!(
                "{place}: found {} values, expected [state, action]",
                other.len()
            ),
        }
    });
    Ok(Response::Pairs(pairs.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_and_jsonl_say_the_same() {
        let csv = from_csv(
            "p.csv",
            "prompt,winner,loser\n0,0 1,\"[1,0]\"\n1,2:0 3:1,4:0\n",
        )
        .unwrap();
        let jsonl = from_jsonl(
            "p.jsonl",
            "{\"prompt\":0,\"winner\":[0,1],\"loser\":[1,0]}\n\n{\"prompt\":1,\"winner\":[[2,0],[3,1]],\"loser\":[[4,0]]}\n",
        )
        .unwrap();
        for (a, b) in csv.iter().zip(&jsonl) {
            assert_eq!(
                (a.prompt, &a.winner, &a.loser),
                (b.prompt, &b.winner, &b.loser)
            );
        }
        assert_eq!(csv.len(), 2);
        let error = from_csv("p.csv", "prompt,winner,loser\n0,0 x,1 0\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "preferences (p.csv line 2): winner: found \"x\", expected a whole number"
        );
    }
}
