-- How a turn begins: one statement, so that the gateway waits once for it. It writes the user's message with its queued
-- run, or says why not; whatever it says was true under the session's lock. No row: there is no such session.
--
-- state: accepted; expired; out_of_time (its runs have worked for `max_worked_ms`); full (`max_queued` runs wait);
-- repeated (a run has this idempotency key already); busy (something is active, `on_busy` says what is to be done about
-- that, and the caller has not made way yet).
--
-- A run that has to wait for others counts as not dispatched: whoever ends the last of them does it.
--
-- A change of this file needs a migration that runs it again.
CREATE OR REPLACE FUNCTION sessions_app_accept(
    in_session uuid, in_owner bigint, in_run uuid, in_content text, in_tokens integer, in_title text, in_on_busy text,
    in_key text, in_now timestamptz, max_queued integer, max_worked_ms bigint, has_made_way boolean
) RETURNS TABLE (
    state text, epoch bigint, on_busy text, agent_type_id bigint, required_capabilities jsonb, group_ids integer[],
    message_id bigint, is_busy boolean, others_wait boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    session record;
    queued integer;
    in_turn integer;
BEGIN
    SELECT s.epoch, s.expires_at, s.worked_ms, s.next_turn, a.id AS agent_type_id, a.required_capabilities,
        COALESCE(NULLIF(in_on_busy, ''), a.on_busy) AS on_busy
    INTO session
    FROM sessions_app_agentsession s JOIN sessions_app_agenttype a ON a.id = s.agent_type_id
    WHERE s.id = in_session AND s.owner_id = in_owner AND s.deleted_at IS NULL
    FOR UPDATE OF s;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- From here on it is seen what was committed before the lock was had.
    SELECT count(*) FILTER (WHERE r.status = 'queued'), COALESCE(bool_or(r.status <> 'queued'), false)
    INTO queued, is_busy
    FROM sessions_app_run r
    WHERE r.session_id = in_session AND r.status IN ('queued', 'running', 'awaiting_approval');
    others_wait := queued > 0;
    epoch := session.epoch;
    on_busy := session.on_busy;
    agent_type_id := session.agent_type_id;
    required_capabilities := session.required_capabilities;
    group_ids := ARRAY(SELECT g.group_id FROM auth_user_groups g WHERE g.user_id = in_owner);
    state := CASE
        WHEN session.expires_at <= in_now THEN 'expired'
        WHEN in_key <> '' AND EXISTS (
            SELECT 1 FROM sessions_app_run r WHERE r.session_id = in_session AND r.idempotency_key = in_key
        ) THEN 'repeated'
        WHEN session.worked_ms >= max_worked_ms THEN 'out_of_time'
        WHEN (is_busy OR others_wait) AND on_busy <> 'enqueue' AND NOT has_made_way THEN 'busy'
        WHEN queued >= max_queued THEN 'full'
        ELSE 'accepted' END;
    IF state = 'accepted' THEN
        UPDATE sessions_app_agentsession s
        SET next_turn = s.next_turn + 1, message_count = s.message_count + 1, last_active = in_now,
            expires_at = GREATEST(s.expires_at, in_now + s.ttl_seconds * interval '1 second'),
            title = COALESCE(NULLIF(s.title, ''), in_title)
        WHERE s.id = in_session;
        INSERT INTO sessions_app_run (
            id, session_id, turn, status, attempt, worker, created_at, dispatched_at, terminal_cursor, error_code,
            error_message, input_tokens, output_tokens, cached_tokens, reasoning_tokens, tool_call_count,
            idempotency_key, is_steering, is_rolled_back)
        VALUES (
            in_run, in_session, session.next_turn, 'queued', 0, '', in_now,
            CASE WHEN NOT is_busy AND NOT others_wait THEN in_now END, '', '', '', 0, 0, 0, 0, 0,
            in_key, on_busy = 'steer', false);
        INSERT INTO sessions_app_message (
            session_id, run_id, turn, position, role, content, thought, tool_calls, tool_call_id, tool_name,
            is_error, is_partial, token_count, created_at)
        VALUES (
            in_session, in_run, session.next_turn, 0, 'user', in_content, '', '[]', '', '', false, false, in_tokens, in_now)
        RETURNING id INTO message_id;
    END IF;
    RETURN NEXT;
END $$;
