//! The plain-text form of HH-RLHF: turns that start with `"\n\nHuman:"` and `"\n\nAssistant:"`.

/// What starts a turn of the user.
pub const HUMAN: &str = "\n\nHuman:";
/// What starts a turn of the assistant.
pub const ASSISTANT: &str = "\n\nAssistant:";

/// A dialogue as (prompt, reply): the prompt ends with the last [`ASSISTANT`], the reply is all after it.
/// `None` when the assistant never speaks.
///
/// ```
/// use rto_bridge::data::split_reply;
/// let (prompt, reply) = split_reply("\n\nHuman: hi\n\nAssistant: hello").unwrap();
/// assert_eq!((prompt, reply), ("\n\nHuman: hi\n\nAssistant:", " hello"));
/// ```
pub fn split_reply(dialogue: &str) -> Option<(&str, &str)> {
    let start = dialogue.rfind(ASSISTANT)?;
    Some(dialogue.split_at(start + ASSISTANT.len()))
}

/// A prompt up to the assistant's first turn: what all prompts grown from one conversation share. A prompt in
/// another form is returned whole.
pub fn first_turn(prompt: &str) -> &str {
    match prompt.find(ASSISTANT) {
        Some(end) => &prompt[..end],
        None => prompt,
    }
}
