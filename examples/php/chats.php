<?php // Customer Chats in a PHP store: copy this file, give `token` and `enter` the user (sub, role, name), and `send` each change.

define('CHATS_URL', setting('CHATS_URL', 'http://127.0.0.1:8000'));
define('DATA', setting('STORE_DATA', __DIR__ . '/data')); // a real store keeps changes and events in its database
@mkdir(DATA . '/changes', 0700, true) && mkdir(DATA . '/events', 0700);

function setting(string $name, ?string $default = null): string {
    return getenv($name) ?: $default ?? throw new RuntimeException("Set $name.");
}

/** Allow the messenger in the page. The session keeps tokens out of caches. */
function add_headers(): void {
    $chats = CHATS_URL;
    header("Content-Security-Policy: default-src 'none'; script-src $chats/chats-static/; frame-src $chats/messenger/; "
        . "connect-src 'self' $chats; form-action 'self' $chats; img-src data:; base-uri 'none'; frame-ancestors 'none'");
}

/** Return a token that is valid for five minutes. */
function sign(array $claims): string {
    $encode = fn(string $part) => rtrim(strtr(base64_encode($part), '+/', '-_'), '=');
    $claims += ['aud' => 'chats', 'iat' => time(), 'exp' => time() + 300];
    $signed = $encode('{"alg":"HS256","typ":"JWT"}') . '.' . $encode(json_encode($claims, JSON_THROW_ON_ERROR));
    return $signed . '.' . $encode(hash_hmac('sha256', $signed, setting('CHATS_AUTH_SECRET'), true));
}

/** Answer with a token for the messenger, of the customer who is signed in. */
function token(?array $user): void {
    if (($user['role'] ?? null) !== 'customer') {
        http_response_code(401);
        return;
    }
    header('Content-Type: application/json');
    echo json_encode(['token' => sign($user)]);
}

/** Send a change. Cron repeats what fails: `php -r 'require "chats.php"; send_changes();'` */
function send(string $method, string $path, array $body = []): void {
    file_put_contents(DATA . '/changes/' . sprintf('%.6F', microtime(true)), json_encode([$method, $path, $body]));
    send_changes();
}

function send_changes(): void {
    foreach (glob(DATA . '/changes/*') as $file) {
        [$method, $path, $body] = json_decode(file_get_contents($file), true);
        $header = ['Authorization: Bearer ' . sign(['sub' => 'store', 'role' => 'store']), 'Content-Type: application/json'];
        $http = ['method' => $method, 'header' => $header, 'content' => json_encode($body), 'timeout' => 5];
        if (file_get_contents(CHATS_URL . "/api/v1/store/$path", false, stream_context_create(['http' => $http])) === false) {
            return; // it is in the log
        }
        unlink($file);
    }
}

/** Take an event. The same one may arrive twice. */
function webhook(): void {
    $body = file_get_contents('php://input');
    [$id, $time] = [$_SERVER['HTTP_WEBHOOK_ID'] ?? '', $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? ''];
    $key = base64_decode(substr(setting('CHATS_WEBHOOK_SECRET'), strlen('whsec_')));
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$time.$body", $key, true));
    $signatures = explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? ''); // there are two during a rotation
    $is_ours = array_filter($signatures, fn($signature) => hash_equals($expected, $signature));
    if (!$is_ours || !ctype_digit($time) || abs(time() - (int) $time) > 300) {
        http_response_code(400);
        return;
    }
    file_put_contents(DATA . '/events/' . hash('sha256', $id), json_decode($body, true)['type']);
    http_response_code(204);
}
