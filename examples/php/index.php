<?php // A store in PHP. What it does for Customer Chats is in `chats.php`.

require 'chats.php';
const USERS = ['anna' => ['role' => 'customer', 'name' => 'Anna'], 'sam' => ['role' => 'admin', 'name' => 'Sam']];
$url = setting('STORE_URL', 'http://127.0.0.1:8090');
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
add_headers();
if ($path === '/hooks/chats') {
    webhook();
    exit;
}
session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Lax', 'cookie_secure' => str_starts_with($url, 'https:'),
    'use_strict_mode' => true]);
$user = isset($_SESSION['user']) ? ['sub' => $_SESSION['user']] + USERS[$_SESSION['user']] : null;
$is_post = $_SERVER['REQUEST_METHOD'] === 'POST';
if ($is_post && ($_SERVER['HTTP_ORIGIN'] ?? '') !== $url) {
    http_response_code(403); // a form of another site
} elseif ($path === '/chats-token') {
    token($user);
} elseif ($path === '/chats' && !$user) {
    $_SESSION['next'] = filter_input(INPUT_GET, 'next') ?: '';
    header('Location: /');
} elseif ($path === '/session' && $is_post) { // sign in; a real store asks for a password; or sign out, of Customer Chats too
    $target = isset($_SESSION['next']) ? '/chats?next=' . urlencode($_SESSION['next']) : '/';
    $id = filter_input(INPUT_POST, 'user');
    $_SESSION = [];
    session_regenerate_id(true);
    if ($user) {
        send('DELETE', "users/{$user['sub']}/sessions");
    } elseif (isset(USERS[$id ?? ''])) {
        $_SESSION['user'] = $id;
        send('PUT', "users/$id", USERS[$id]);
    }
    header("Location: $target", true, 303);
} elseif ($path === '/orders' && $is_post && $user) { // order a teapot; a real store keeps orders in its database
    [$number, $now] = [bin2hex(random_bytes(4)), date(DATE_RFC3339)];
    $order = ['user_id' => $user['sub'], 'number' => $number, 'status' => 'paid', 'total' => '29.50', 'currency' => 'EUR'];
    $_SESSION['orders'][] = $number;
    send('PUT', "orders/$number", $order + ['placed_at' => $now, 'updated_at' => $now]);
    header('Location: /', true, 303);
} else {
    require 'page.php';
}
