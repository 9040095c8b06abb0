"""`chats doctor`: checks a deployment from the outside, area by area, and says what to do."""
