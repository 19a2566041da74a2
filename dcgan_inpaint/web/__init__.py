"""The page in the browser: python -m dcgan_inpaint.web"""
